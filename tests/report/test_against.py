from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedsplit.report.against import headlines, tables
from fedsplit.report.comparison import Comparison
from fedsplit.report.gather import Gathered, gather
from tests.report.examples import MANY, VARIANTS, write_comparison


def compared(folder: Path, accuracies: dict[str, list[float]]) -> Gathered:
    """Return a comparison in one setting whose runs with the seeds 1 and 3 end at these scores."""
    write_comparison(folder, variants=VARIANTS, settings=())
    for label, scores in accuracies.items():
        for seed, score in zip((1, 3), scores, strict=True):
            path = folder / "runs" / f"{label}-seed{seed}" / "summary.json"
            summary = json.loads(path.read_text())
            path.write_text(json.dumps(summary | {"final_accuracy": score}))
    return gather(folder)


SPLIT = "split <b>|"


def test_the_headline_names_the_best_variant_and_its_costs_against_full(tmp_path: Path) -> None:
    """Break it: let `centralized` win, or leave out what `full` costs."""
    scores = {"centralized": [0.9, 0.9], "full": [0.5, 0.54], SPLIT: [0.6, 0.62]}
    (found,) = headlines(compared(tmp_path, scores))
    assert found.title == (
        f"{SPLIT} is the most accurate variant that leaves the images with the clients"
    )
    said = [(figure.name, figure.value, figure.note) for figure in found.figures]
    assert said == [
        ("final test accuracy", "0.610 ± 0.014", "full: 0.520 ± 0.028"),
        ("bytes of training", "12.0 MB", "full: 12.0 MB, the same"),
        ("client memory", "170 kB", "full: 170 kB, the same"),
        ("client FLOPs per sample", "201 kFLOP", "full: 201 kFLOP, the same"),
    ]


def test_an_exact_tie_has_no_winner(tmp_path: Path) -> None:
    """Break it: take the first of the most accurate variants."""
    scores = {"centralized": [0.9, 0.9], "full": [0.82, 0.8], SPLIT: [0.8, 0.82]}
    (found,) = headlines(compared(tmp_path, scores))
    assert found.title == (
        f"full and {SPLIT} are equal at 0.810: no variant that leaves the images with the clients "
        "is more accurate"
    )
    assert [(figure.name, figure.note) for figure in found.figures[:2]] == [
        (f"final test accuracy of {SPLIT}", ""),
        (f"bytes of training of {SPLIT}", "full: 12.0 MB, the same"),
    ]


def test_a_tie_of_many_names_three(tmp_path: Path) -> None:
    made = write_comparison(tmp_path, variants=MANY, settings=(), seeds=[1])
    for path in made.glob("runs/*/summary.json"):
        summary = json.loads(path.read_text())
        path.write_text(json.dumps(summary | {"final_accuracy": 0.5}))
    (found,) = headlines(gather(made))
    assert found.title == (
        "sflv1 number 1, sflv1 number 2, sflv1 number 3 and 8 more are equal at 0.500: no variant "
        "is more accurate"
    )
    assert "deviation" not in found.figures[0].note


def test_a_variant_within_one_deviation_is_named(tmp_path: Path) -> None:
    """Break it: never compare the means with the deviation."""
    scores = {"centralized": [0.9, 0.9], "full": [0.5, 0.6], SPLIT: [0.54, 0.62]}
    (found,) = headlines(compared(tmp_path, scores))
    assert found.figures[0].note == "full: 0.550 ± 0.071; less than one deviation behind: full"


def test_the_larger_of_both_deviations_counts(tmp_path: Path) -> None:
    """A winner with equal seeds has none. Break it: ask for that of the winner alone."""
    scores = {"centralized": [0.9, 0.9], "full": [0.4, 0.6], SPLIT: [0.55, 0.55]}
    (found,) = headlines(compared(tmp_path, scores))
    assert found.figures[0].note == "full: 0.500 ± 0.141; less than one deviation behind: full"


def test_differences_are_seed_by_seed(tmp_path: Path) -> None:
    """Break it: subtract the means, or take the deviation of one of them."""
    scores = {"centralized": [0.9, 0.9], "full": [0.5, 0.6], SPLIT: [0.51, 0.63]}
    (table,) = tables(compared(tmp_path, scores))
    rows = {row[0].text: [each.text for each in row[1:]] for row in table.rows}
    assert rows["full"][:2] == ["0.550 ± 0.071", "-"]
    assert rows[SPLIT][:2] == ["0.570 ± 0.085", "+0.020 ± 0.014"]
    assert rows[SPLIT][3] == "100 %"


def test_a_cost_is_a_share_of_fulls(tmp_path: Path) -> None:
    write_comparison(tmp_path, variants=VARIANTS, settings=(), seeds=[1])
    path = tmp_path / "runs" / "full-seed1" / "summary.json"
    summary = json.loads(path.read_text()) | {"client_memory_bytes": 17_000_000}
    path.write_text(json.dumps(summary))
    gathered = gather(tmp_path)
    (table,) = tables(gathered)
    rows = {row[0].text: [each.text for each in row[1:]] for row in table.rows}
    assert rows[SPLIT][4:6] == ["170 kB", "1 %"]
    (found,) = headlines(gathered)
    best = found.title.partition(" is the")[0]
    if best != "full":
        assert found.figures[2].note == "full: 17.0 MB, 100 times as much"


def test_without_full_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    gathered = gather(write_comparison(tmp_path, variants=MANY, settings=()))
    assert list(tables(gathered)) == []
    (found,) = headlines(gathered)
    assert found.title == "sflv1 number 1 is the most accurate variant"
    assert "full" not in " ".join(figure.note for figure in found.figures)


def test_a_setting_can_choose_the_strategy(tmp_path: Path) -> None:
    """Break it: read the strategy of a variant from the base and the variant alone."""
    variants: dict[str, Any] = {"cut 1": {"split.cut-layer": 1}, "cut 2": {"split.cut-layer": 2}}
    write_comparison(tmp_path, variants=variants, settings=("v2", "unsplit"), seeds=[1])
    settings: dict[str, Any] = {"v2": {"strategy": "sflv2"}, "unsplit": {"strategy": "full"}}
    base: dict[str, Any] = {"strategy": "centralized"}
    replace(Comparison.read(tmp_path), base=base, settings=settings).write(tmp_path)
    gathered = gather(tmp_path)
    first, second = headlines(gathered)
    assert first.title == "v2: cut 1 and cut 2 are equal at 0.510: no variant is more accurate"
    assert [figure.note for figure in first.figures] == [""] * 4
    assert second.figures[1].note == "cut 1: 12.0 MB, the same"
    (table,) = tables(gathered)
    assert table.caption == "Accuracy and costs against cut 1: unsplit"


@pytest.mark.parametrize(
    ("num_bytes", "note", "share"),
    [
        (170_000, "full: 170 kB, the same", "100 %"),
        (174_000, "full: 174 kB, about the same", "97.7 %"),
        (160_000, "full: 160 kB; here 1.1 times as much", "106 %"),
        (1_700, "full: 1.70 kB; here 100 times as much", "10,000 %"),
        (5_100_000, "full: 5.10 MB, 30 times as much", "3.33 %"),
    ],
)
def test_what_is_said_of_a_cost(tmp_path: Path, num_bytes: int, note: str, share: str) -> None:
    """Break it: call costs that differ by a few percent the same, or write 1e+04 %."""
    write_comparison(tmp_path, variants=VARIANTS, settings=(), seeds=[1])
    path = tmp_path / "runs" / "full-seed1" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "client_memory_bytes": num_bytes}))
    gathered = gather(tmp_path)
    (found,) = headlines(gathered)
    assert found.figures[2].note == note
    (table,) = tables(gathered)
    assert table.rows[-1][6].text == share


def test_a_difference_says_that_seeds_are_missing(tmp_path: Path) -> None:
    """Break it: give `_difference` no number of seeds."""
    write_comparison(
        tmp_path, variants=VARIANTS, settings=(), seeds=[1, 3, 5], failed=["full-seed3"]
    )
    (table,) = tables(gather(tmp_path))
    assert table.rows[-1][2].text == "+0.020 ± 0.000 (n = 2)"
