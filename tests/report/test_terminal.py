from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fedsplit.report.gather import gather
from fedsplit.report.terminal import terminal_table
from fedsplit.report.write import write_report
from tests.report.examples import VARIANTS, write_comparison


def test_each_setting_has_a_table_of_accuracy_and_cost(tmp_path: Path) -> None:
    """Break it: show a deviation of costs, and lines are broken at 80 columns."""
    failed = ["iid-full-seed3"]
    text = terminal_table(gather(write_comparison(tmp_path, variants=VARIANTS, failed=failed)))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if "±" in line and "seeds" in line] == [
        "iid, means over 2 seeds (± standard deviation)",
        "dirichlet(0.1), means over 2 seeds (± standard deviation)",
    ]
    iid, uneven = (line.split("  ") for line in lines if line.startswith(" full "))
    assert " 0.510 (n = 1)" in " ".join(iid)
    assert " 0.520 ± 0.014" in " ".join(uneven)
    split = next(line for line in lines if line.startswith(" split <b>|"))
    assert "MB" in split


def test_the_most_accurate_variants_are_named_below_the_tables(tmp_path: Path) -> None:
    """Break it: show the tables alone, or let the first of two equal variants win."""
    variants: dict[str, dict[str, Any]] = {"full": {"strategy": "full"}, "a b c": {}}
    variants["sflv1 number 2"] = {"batch-size": 2}
    lines = terminal_table(gather(write_comparison(tmp_path, variants=variants))).splitlines()
    said = " ".join(lines[-4:])
    close = "less than one deviation behind: sflv1 number 2"
    for setting in ("iid", "dirichlet(0.1)"):
        title = f"{setting}: full and a b c are equal at 0.520: no variant is more accurate"
        assert f"{title} ({close})." in said


def test_a_variant_without_a_finished_run_has_dashes(tmp_path: Path) -> None:
    everything = {"a" * 100: {"strategy": "full"}}
    failed = [f"iid-{'a' * 100}-seed1"]
    made = write_comparison(
        tmp_path, variants=everything, settings=["iid"], seeds=[1], failed=failed
    )
    lines = terminal_table(gather(made)).splitlines()
    assert lines[0] == "iid, one seed"
    assert max(map(len, lines)) <= 80
    assert sum(line.split().count("-") for line in lines) == 4


def test_runs_of_one_variant_with_other_images_are_named(tmp_path: Path) -> None:
    """Break it: average over the seeds without a word."""
    made = write_comparison(tmp_path, variants=VARIANTS, settings=["iid"])
    assert "data set has changed" not in terminal_table(gather(made))
    path = made / "runs" / "iid-full-seed3" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "num_test_examples": summary["num_test_examples"] + 3}))
    text = " ".join(terminal_table(gather(made)).split())
    said = "The data set has changed between the runs of iid full: "
    assert re.search(rf"{said}[\d,]+ images with seed 1; [\d,]+ images with seed 3\.", text)
    _, report, _ = write_report(made)
    assert "The data set has changed between the runs of these variants" in report.read_text()
    assert "iid full" in report.read_text()


def test_seeds_may_draw_other_classes(tmp_path: Path) -> None:
    """Pathological clients leave classes out. Break it: count their images for every seed."""
    pathological = {"full": {"strategy": "full", "data.partitioner": "pathological"}}
    made = write_comparison(tmp_path, variants=pathological, settings=())
    path = made / "runs" / "full-seed3" / "summary.json"
    summary = json.loads(path.read_text())
    fewer = {**summary, "num_train_examples": summary["num_train_examples"] - 100}
    path.write_text(json.dumps(fewer))
    assert "data set has changed" not in terminal_table(gather(made))
    path.write_text(json.dumps({**fewer, "num_test_examples": fewer["num_test_examples"] + 3}))
    assert "data set has changed" in terminal_table(gather(made))
