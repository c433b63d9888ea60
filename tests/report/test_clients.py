from __future__ import annotations

import json
from pathlib import Path

from fedsplit.config import Config
from fedsplit.report.clients import (
    client_picture,
    client_table,
    comparison_table,
    validation_accuracies,
)
from fedsplit.report.gather import RunRecord, gather, read_run
from tests.report.examples import VARIANTS, write_comparison, write_run

LINES = [
    {
        "round": 1,
        "train": {
            "clients": [0, 2],
            "examples": [9, 8],
            "loss": [2.0, 2.5],
            "accuracy": [0.2, 0.1],
        },
        "validation": {
            "clients": [0, 2],
            "examples": [3, 4],
            "loss": [1, 1],
            "accuracy": [0.5, 0.75],
        },
    },
    {
        "round": 2,
        "train": {"clients": [0], "examples": [9], "loss": [1.5], "accuracy": [0.4]},
        "validation": {"clients": [0], "examples": [3], "loss": [0.5], "accuracy": [1.0]},
    },
]


def a_run(folder: Path, lines: list[dict[str, object]] | None) -> RunRecord:
    run = write_run(Config.load({"output-dir": str(folder), "run-name": "one"}))
    rows = [json.loads(line) for line in run.rounds_path.read_text().splitlines()]
    rows[1]["failed_clients"] = [2]
    run.write_rounds(rows)
    for line in lines or []:
        run.append_client_results(line)
    return read_run(run.path)


def test_each_client_has_its_last_results(tmp_path: Path) -> None:
    """Break it: take those of the last round only, or count failures over all clients."""
    table = client_table(a_run(tmp_path, LINES))
    assert table is not None
    rows = [[each.text for each in row] for row in table.rows]
    # Client 0 holds 10 of the first class, 11 of the next, and so on.
    assert rows[0] == [*("0", "145", "10", "2", "0", "0.4000", "1.5000", "1.0000", "0.5000", "3")]
    assert rows[2] == [*("2", "345", "10", "1", "1", "0.1000", "2.5000", "0.7500", "1.0000", "4")]
    assert rows[1] == ["1", "245", "10", "0", "0", *"-----"]


def test_the_picture_says_the_range(tmp_path: Path) -> None:
    picture = client_picture(a_run(tmp_path, LINES))
    assert picture is not None
    assert "0.75 to 1.00" in picture.caption
    assert "0.88" in picture.caption


def test_a_run_without_results_of_clients(tmp_path: Path) -> None:
    """Break it: draw or tabulate nothing instead of leaving it out. Older runs kept none."""
    record = a_run(tmp_path, None)
    assert client_table(record) is None
    assert client_picture(record) is None
    write_comparison(tmp_path, variants=VARIANTS, settings=())
    assert comparison_table(gather(tmp_path)) is None


def test_what_a_later_process_will_make_again_does_not_count(tmp_path: Path) -> None:
    """Break it: read all lines. The process was killed before it wrote the row of round 4."""
    later = {"round": 4, "validation": LINES[1]["validation"]}
    record = a_run(tmp_path, [LINES[0], later])
    assert validation_accuracies(record) == [0.5, 0.75]


def test_a_comparison_shows_the_spread_over_clients(tmp_path: Path) -> None:
    """Break it: take the mean over clients instead of the worst."""
    write_comparison(tmp_path, variants=VARIANTS, settings=())
    for seed, worst in ((1, 0.2), (3, 0.4)):
        scores = {"clients": [0, 1, 2], "accuracy": [worst, 0.5, 0.9], "loss": [1, 1, 1]}
        path = tmp_path / "runs" / f"full-seed{seed}" / "clients.jsonl"
        path.write_text(json.dumps({"round": 3, "validation": scores}) + "\n")
    table = comparison_table(gather(tmp_path))
    assert table is not None
    rows = {row[0].text: [each.text for each in row[1:]] for row in table.rows}
    assert rows["full"] == ["0.300 ± 0.141", "0.500 ± 0.000", "0.900 ± 0.000"]
    assert rows["centralized"] == ["-", "-", "-"]
