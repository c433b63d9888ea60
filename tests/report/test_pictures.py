from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fedsplit.drawing.lines import Line
from fedsplit.report.bars import draw_shards
from fedsplit.report.curves import draw_curves
from fedsplit.report.gather import gather
from fedsplit.report.header import header_of
from fedsplit.report.html import to_html
from fedsplit.report.measures import (
    accuracy_by_round,
    bytes_so_far,
    client_flops,
    curve,
    training_bytes,
)
from fedsplit.report.sections import sections_of
from tests.report.examples import CLASS_NAMES, MANY, SHARDS, VARIANTS, write_comparison


def svgs(page: str) -> list[str]:
    return re.findall(r"<svg .*?</svg>", page, re.DOTALL)


def page_of(directory: Path) -> str:
    gathered = gather(directory)
    return to_html("t", header_of(gathered), sections_of(gathered, drawn=True))


@pytest.mark.parametrize("variants", [VARIANTS, MANY], ids=["three", "eleven"])
def test_pictures_are_whole_and_follow_the_page(
    tmp_path: Path, variants: dict[str, dict[str, object]]
) -> None:
    page = page_of(write_comparison(tmp_path, variants=variants))
    found = svgs(page)
    assert (
        len(found) == 13
    )  # in 2 settings 3 kinds of curves, bytes and shards; 3 of client and server
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    for svg in found:
        tree = ElementTree.fromstring(svg)
        assert tree.attrib["aria-label"]
        # Only colours of the page, and text that stays text.
        assert re.findall(r"#[0-9a-fA-F]{6}\b", svg) == []
        assert "var(--ink)" in svg or "var(--muted)" in svg
        assert svg.count("<text") > 3
        for used in re.findall(r'(?:url\(|href=")#([^)"]+)', svg):
            assert f'id="{used}"' in svg


def test_a_page_is_the_same_every_time(tmp_path: Path) -> None:
    directory = write_comparison(tmp_path, variants=VARIANTS)
    assert page_of(directory) == page_of(directory)


def test_curves_are_means_over_seeds(tmp_path: Path) -> None:
    records = gather(write_comparison(tmp_path, variants=VARIANTS)).of("iid", "split <b>|")
    assert len(records) == 2
    line = curve(records, "split", 0, bytes_so_far)
    assert line is not None
    assert line.ys == pytest.approx([0.1, 0.34, 0.44, 0.54])
    # Four directions of a million bytes in a round, and the seeds 1 and 3.
    assert line.xs == [0, 4_000_002, 8_000_004, 12_000_006]
    assert line.deviations == pytest.approx([0.0, *[0.02 / 2**0.5] * 3])
    assert [found.values for found in accuracy_by_round(records).values()] == [
        (0.1, 0.1),
        *(pytest.approx((0.33 + n / 10, 0.35 + n / 10)) for n in range(3)),
    ]
    assert [training_bytes(record) for record in records] == [12_000_003, 12_000_009]
    assert client_flops(records[0]) == 3 * 500 * 200_704


def test_rounds_without_accuracy_are_left_out(tmp_path: Path) -> None:
    records = gather(write_comparison(tmp_path, variants=VARIANTS)).of("iid", "full")
    records[0].rounds[1]["test_accuracy"] = None
    line = curve(records, "full", 0, lambda row, record: 1.0)
    assert line is not None
    assert line.xs == [0, 1, 3]
    records[0].summary["initial_accuracy"] = None
    for row in records[0].rounds:
        row["test_accuracy"] = None
    assert curve(records, "full", 0, lambda row, record: 1.0) is None


def test_the_caption_says_which_lines_end_before_the_runs_do(tmp_path: Path) -> None:
    """Break it: say nothing, as if 0.320 were the last accuracy of `full`."""
    directory = write_comparison(tmp_path, variants=VARIANTS, settings=())
    said = "Lines end with the last round that all seeds have"
    assert said not in page_of(directory)
    path = directory / "runs" / "full-seed1" / "rounds.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    page = page_of(directory)
    assert (
        f"{said}, early of: full (round 1 of 3). At the end: centralized 0.550, full 0.320" in page
    )


def test_the_caption_says_which_lines_lie_on_each_other() -> None:
    """Break it: return the caption as it was given."""
    lines = [Line(label, n, [0, 1, 2], [0.1, 0.5, 0.8]) for n, label in enumerate("abc")]
    lines.append(Line("d", 3, [0, 1, 2], [0.1, 0.2, 0.3]))
    picture = draw_curves(lines, name="x", caption="By round", alt="a", along="round", unit=None)
    said = "By round. Lines that lie on each other alternate their dashes: a, b and c"
    assert picture.caption == said
    assert "stroke-dasharray" in picture.svg
    alone = draw_curves(lines[2:], name="x", caption="c", alt="a", along="round", unit=None)
    assert alone.caption == "c"


def test_many_pairs_of_clients_and_classes_are_bars() -> None:
    svg = draw_shards([[1, 2]] * 4000, ["a", "b"], name="x", alt="a")
    assert "PatchCollection" not in svg
    assert "PatchCollection" in draw_shards(SHARDS, CLASS_NAMES, name="x", alt="a")
