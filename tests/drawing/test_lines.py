from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fedsplit.drawing.axes import add_axes, new_figure
from fedsplit.drawing.lines import LABEL_INCHES, Line, draw_lines, spread
from fedsplit.drawing.palette import SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def drawn(*lines: Line, unit: str | None = None) -> tuple[Axes, list[list[str]]]:
    figure = new_figure(5.2, 2.9)
    axes = add_axes(figure, left=0.42, right=LABEL_INCHES)
    return axes, draw_lines(axes, lines, along="round", unit=unit, measure="test accuracy")


def data_lines(axes: Axes) -> list[Line2D]:
    return [line for line in axes.get_lines() if line.get_transform() == axes.transData]


def pixels_of(axes: Axes, colour: str) -> int:
    """Count the pixels of a colour inside the axes, without the labels beside them."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255.0  # type: ignore[attr-defined]
    inside = image[:, : int(axes.bbox.x1)]
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int(np.all(np.abs(inside - wanted) < 0.02, axis=-1).sum())


def test_lines_on_each_other_are_all_seen() -> None:
    """Break it: draw them all solid, with marks of one size."""
    ys = [0.1, 0.4, 0.5, 0.6]
    lines = [Line(name, n, [0, 1, 2, 3], ys) for n, name in enumerate(("full", "sflv1", "other"))]
    axes, same = drawn(*lines)
    assert same == [["full", "sflv1", "other"]]
    alone = pixels_of(drawn(lines[0])[0], SERIES[0])
    for number in range(3):
        assert pixels_of(axes, SERIES[number]) > alone / 8
    sizes = [line.get_markersize() for line in data_lines(axes)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_a_line_on_a_part_of_another_is_seen() -> None:
    """Break it: compare only lines with the same number of points; one hides the other."""
    whole = Line("test", 0, [0, 1, 2, 3], [0.9, 0.5, 0.4, 0.3])
    late, early = Line("late", 1, [1, 2, 3], [0.5, 0.4, 0.3]), Line("early", 2, [0, 1], [0.9, 0.5])
    assert drawn(whole, late)[1] == [["test", "late"]]
    assert drawn(whole, early)[1] == [["test", "early"]]
    assert drawn(whole, Line("other", 1, [1, 2, 3], [0.5, 0.4, 0.6]))[1] == []
    axes, _ = drawn(late, whole)
    alone = pixels_of(drawn(late, Line("", 5, [0, 3], [0.9, 0.9]))[0], SERIES[1])
    assert pixels_of(axes, SERIES[1]) > alone / 8


def test_the_last_value_has_the_digits_of_the_tables() -> None:
    """Break it: write two digits; an accuracy of 0.245 is then 0.24 here and 0.245 there."""
    axes, _ = drawn(Line("a", 0, [0, 1], [0.1, 0.245]))
    assert [text.get_text() for text in axes.texts] == ["a 0.245"]


def test_the_longest_label_is_inside_the_picture() -> None:
    """Break it: leave less space beside the axes; wide letters reach over the edge."""
    axes, _ = drawn(Line("sflv2 with a label of forty characters", 0, [0, 1], [0.1, 0.245]))
    figure = axes.get_figure(root=True)
    assert figure is not None
    (text,) = axes.texts
    assert text.get_text() == "sflv2 with a la… 0.245"
    assert text.get_window_extent().x1 <= figure.bbox.x1


def test_lines_that_can_be_told_apart_are_solid() -> None:
    one, two = Line("a", 0, [0, 1, 2], [0.1, 0.4, 0.6]), Line("b", 1, [0, 1, 2], [0.1, 0.4, 0.5])
    axes, same = drawn(one, two)
    assert same == []
    assert [line.get_linestyle() for line in data_lines(axes)] == ["-", "-"]
    # The same heights elsewhere are another line.
    assert drawn(one, Line("c", 2, [0, 2, 4], [0.1, 0.4, 0.6]), unit="B")[1] == []


def test_the_spread_is_drawn_at_every_round() -> None:
    """Break it: draw it at the last round only."""
    axes, _ = drawn(Line("a", 0, [0, 1, 2], [0.1, 0.4, 0.6], [0.02, 0.05, 0.1]))
    (band,) = axes.collections
    vertices = np.asarray(band.get_paths()[0].vertices)
    corners = {(round(x, 6), round(y, 6)) for x, y in vertices.tolist()}
    for x, low, high in ((0, 0.08, 0.12), (1, 0.35, 0.45), (2, 0.5, 0.7)):
        assert {(x, low), (x, high)} <= corners


def test_one_seed_has_no_band() -> None:
    assert len(drawn(Line("a", 0, [0, 1], [0.1, 0.4]))[0].collections) == 0


def test_a_level_line_beside_a_logarithm() -> None:
    level = Line("pooled", 0, [0, 0, 0], [0.1, 0.5, 0.8])
    growing = [Line(f"v{n}", n, [0, 10.0**n], [0.1, 0.4]) for n in range(1, 4)]
    axes, same = drawn(level, *growing, unit="B")
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "round (log scale)"
    assert same == []
    assert "pooled 0.800" in [text.get_text() for text in axes.texts]
    assert drawn(level, unit="B")[0].get_xscale() == "linear"


@pytest.mark.parametrize(
    "wanted", [[0.9, 0.9, 0.9], [0.0, 0.0, 0.0], [1.0, 0.5, 0.49], [0.3], [0.95, 0.5, 0.02]]
)
def test_labels_keep_their_order_and_distance(wanted: list[float]) -> None:
    places = spread(wanted, 0.2)
    gaps = [upper - lower for upper, lower in itertools.pairwise(places)]
    assert all(gap >= 0.2 - 1e-9 for gap in gaps)
    assert all(-1e-9 <= place <= 1 for place in places)
