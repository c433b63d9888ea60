from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedsplit.config import Config
from fedsplit.errors import ConfigError, RunError
from fedsplit.report.comparison import Comparison
from fedsplit.report.write import write_report
from tests.report.examples import VARIANTS, write_comparison, write_run


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "example").mkdir()
    return write_comparison(tmp_path / "example", variants=VARIANTS)


def test_the_csv_has_a_row_for_each_run_with_every_key_of_its_summary(directory: Path) -> None:
    written = write_report(directory)
    assert [path.name for path in written] == ["results.csv", "report.md", "report.html"]
    with written[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert list(rows[0])[:4] == ["setting", "label", "seed", "strategy"]
    for row in rows:
        name = f"{row['setting']}-{row['label']}-seed{row['seed']}"
        kept = json.loads((directory / "runs" / name / "summary.json").read_text())
        assert set(kept) <= set(row)
        assert {key: row[key] for key in kept} == {
            key: "" if value is None else str(value) for key, value in kept.items()
        }


def test_markdown_has_means_and_sample_deviations(directory: Path) -> None:
    write_report(directory)
    text = (directory / "report.md").read_text(encoding="utf-8")
    # Accuracies 0.51 and 0.53: mean 0.52, sample deviation 0.02 / sqrt(2).
    assert "| full | 0.520 ± 0.014 | 0.520 ± 0.014 | 0.520 ± 0.014 | 0.520 ± 0.014 |" in text
    assert "| split \\<b\\>\\| |" in text
    # Cut up: 3 rounds of 1,000,001 and of 1,000,003; deviation 3 * sqrt(2).
    assert "| split \\<b\\>\\| | 3.00 MB ± 4 B | 3.00 MB | 3.00 MB | 3.00 MB | 12.0 MB" in text
    assert "n = 2; divided by n - 1" in text
    assert "fedsplit compare example.toml" in text
    assert "| variant | strategy |" in text
    assert "| dirichlet(0.1) | dirichlet | 0.1 |" in text
    assert "Failed" not in text


def test_with_one_seed_there_is_no_deviation(tmp_path: Path) -> None:
    write_report(write_comparison(tmp_path, variants=VARIANTS, settings=(), seeds=[5]))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "±" not in text
    assert "There is one seed: no deviation can be shown" in text
    assert "| full | 0.550 | 0.550 |" in text


def test_failed_runs_are_named_and_left_out(tmp_path: Path) -> None:
    write_report(write_comparison(tmp_path, variants=VARIANTS, failed=["iid-full-seed1"]))
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "runs/iid-full-seed1" in text
        assert "Every participant of round 1 failed." in text
        assert "Where runs are missing" in text
    assert "| full | 0.530 | 0.530 | 0.520 ± 0.014" in (tmp_path / "report.md").read_text()


def test_a_comparison_without_any_result_can_be_reported(tmp_path: Path) -> None:
    names = [f"{label}-seed1" for label in VARIANTS]
    write_comparison(tmp_path, variants=VARIANTS, settings=(), seeds=[1], failed=names)
    write_report(tmp_path)
    assert "| full | - | - |" in (tmp_path / "report.md").read_text()


def test_what_is_not_run_yet_is_no_failure(directory: Path) -> None:
    comparison = Comparison.read(directory)
    comparison.runs.append(type(comparison.runs[0])("iid", "full", 9, "runs/never"))
    comparison.write(directory)
    write_report(directory)
    text = (directory / "report.md").read_text()
    assert "13 runs, 1 of them not made yet" in text
    assert "never" not in text


def test_what_summaries_do_not_have_is_not_shown(directory: Path) -> None:
    for path in directory.glob("runs/*/summary.json"):
        summary = json.loads(path.read_text())
        timed = {"simulated_communication_seconds": 90.0, "communication_seconds": None}
        path.write_text(json.dumps(summary | timed))
    _, markdown, page = write_report(directory)
    assert "| client memory | server memory |" in markdown.read_text()
    assert "Memory for training: a client and the server" in page.read_text()
    assert "| communication, simulated |" in markdown.read_text()
    assert "| 1:30 min |" in markdown.read_text()
    assert "communication, measured" not in markdown.read_text()

    # As runs of an older version have left them.
    for path in directory.glob("runs/*/summary.json"):
        summary = json.loads(path.read_text())
        old = {key: summary[key] for key in summary if not re.search("memory|commun", key)}
        path.write_text(json.dumps(old))
    for path in write_report(directory)[1:]:
        assert not re.search("memory|communication", path.read_text(), re.IGNORECASE)


def test_exact_bytes_stand_in_the_page(directory: Path) -> None:
    write_report(directory)
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert 'title="3,000,003; 3,000,009"' in page
    assert "split <b>" not in page
    assert "split &lt;b&gt;|" in page


def test_the_report_of_a_run(tmp_path: Path) -> None:
    config = Config.load({"output-dir": str(tmp_path), "run-name": "one", "seed": 4})
    (write_run(config).path / "rounds.png").write_bytes(b"")
    written = write_report(tmp_path / "one")
    assert [path.name for path in written] == ["report.md", "report.html"]
    text, page = (path.read_text(encoding="utf-8") for path in written)
    assert "| 3 | 0.6667 | 0.8333 | 0.5400 | - | 1.00 MB | 1.00 MB |" in text
    assert "![Rounds](rounds.png)" in text
    assert "shards.png" not in text  # it is not there
    assert page.count("<svg ") == 4
    assert "Accuracy by round" in page


@pytest.mark.parametrize("name", [".", "nowhere", "file", "x" * 300])
def test_other_directories_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"Give a directory that 'fedsplit compare' or"):
        write_report(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("spoilt", ["comparison.json", "runs/iid-full-seed1/rounds.jsonl"])
def test_files_that_cannot_be_read(directory: Path, spoilt: str) -> None:
    (directory / spoilt).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        write_report(directory)


def test_a_report_that_cannot_be_written(directory: Path) -> None:
    (directory / "report.html").mkdir()
    with pytest.raises(RunError, match=r"cannot be written.*try 'fedsplit report' again"):
        write_report(directory)


def test_a_report_loads_no_torch(directory: Path) -> None:
    script = (
        "import sys; from fedsplit.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'flwr', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "report", str(directory)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        *(str(directory / name) for name in ("results.csv", "report.md", "report.html")),
        "[]",
    ]
