from __future__ import annotations

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fedsplit.report.bars import draw_shards
from fedsplit.report.curves import draw_curves, spread
from fedsplit.report.gather import gather
from fedsplit.report.html import to_html
from fedsplit.report.measures import Curve, bytes_so_far, client_flops, curve, training_bytes
from fedsplit.report.sections import header_of, sections_of
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
    assert line.ys == pytest.approx([0.1, 0.32, 0.42, 0.52])
    # Four directions of a million bytes in a round, and the seeds 1 and 3.
    assert line.xs == [0, 4_000_002, 8_000_004, 12_000_006]
    assert line.deviation == pytest.approx(0.02 / 2**0.5)
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


def test_a_variant_that_sends_nothing_is_a_level_line(tmp_path: Path) -> None:
    level = Curve("pooled", 0, [0, 0, 0], [0.1, 0.5, 0.8], None)
    growing = [Curve(f"v{n}", n, [0, 10.0**n], [0.1, 0.4], 0.01) for n in range(1, 4)]
    svg = draw_curves([level, *growing], name="x", alt="a", along="bytes", unit="B")
    assert "log scale" in svg
    assert "stroke-dasharray" in svg
    assert "pooled 0.80" in svg
    alone = draw_curves([level], name="x", alt="a", along="bytes", unit="B")
    assert "log scale" not in alone


@pytest.mark.parametrize(
    "wanted", [[0.9, 0.9, 0.9], [0.0, 0.0, 0.0], [1.0, 0.5, 0.49], [0.3], [0.95, 0.5, 0.02]]
)
def test_labels_keep_their_order_and_distance(wanted: list[float]) -> None:
    places = spread(wanted, 0.2)
    gaps = [upper - lower for upper, lower in itertools.pairwise(places)]
    assert all(gap >= 0.2 - 1e-9 for gap in gaps)
    assert all(-1e-9 <= place <= 1 for place in places)


def test_dots_have_areas_in_proportion() -> None:
    svg = draw_shards([[40, 10], [0, 20]], ["a", "b"], name="x", alt="a")
    group = re.search(r'id="x-PathCollection_1">(.*?)</g>', svg, re.DOTALL)
    assert group is not None
    widths = []
    for path in re.findall(r'd="([^"]+)"', group[1]):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
        widths.append(max(numbers[::2]) - min(numbers[::2]))
    # By client: 40 and 10 images; then none, which has no dot, and 20.
    assert [width / max(widths) for width in widths] == pytest.approx([1, 0.5, 0.5**0.5], abs=0.01)


def test_many_clients_are_bars() -> None:
    svg = draw_shards([[1, 2]] * 100, ["a", "b"], name="x", alt="a")
    assert "training images" in svg
    assert "training images" not in draw_shards(SHARDS, CLASS_NAMES, name="x", alt="a")
