from __future__ import annotations

import numpy as np
import pytest

from fedsplit.drawing.axes import add_axes, new_figure
from fedsplit.drawing.confusion import draw_confusion
from fedsplit.drawing.heat import draw_heat, name_rows
from fedsplit.drawing.shards import draw_shards


def test_a_cell_is_the_darker_the_larger_its_value() -> None:
    """Break it: draw all cells in the full colour."""
    axes = add_axes(new_figure(4, 4), left=1, right=0.1)
    opacity = np.array([[1.0, 0.25], [0.0, 0.5]])
    draw_heat(axes, opacity, text=lambda row, column: f"{row}{column}")
    (cells,) = axes.collections
    faces = np.asarray(cells.get_facecolor())
    assert faces[:, 3].tolist() == [1.0, 0.25, 0.5]  # an empty cell is not drawn
    assert [text.get_text() for text in axes.texts] == ["00", "01", "11"]


def test_large_maps_have_no_numbers() -> None:
    axes = add_axes(new_figure(4, 4), left=1, right=0.1)
    draw_heat(axes, np.ones((13, 2)), text=lambda row, column: "1")
    assert len(axes.texts) == 0
    huge = add_axes(new_figure(4, 4), left=1, right=0.1)
    draw_heat(huge, np.ones((100, 100)), text=lambda row, column: "1")
    assert len(huge.images) == 1  # one image instead of 10,000 rectangles


def test_mistakes_have_another_colour() -> None:
    axes = add_axes(new_figure(4, 4), left=1, right=0.1)
    draw_confusion(axes, [[3, 1], [0, 4]], ["a", "$b$"])
    (cells,) = axes.collections
    right, wrong, last = np.asarray(cells.get_facecolor())[:, :3].tolist()
    assert right == last != wrong
    assert [text.get_text() for text in axes.texts] == ["3", "1", "4"]


@pytest.mark.parametrize(("clients", "shown"), [(3, [0, 1, 2]), (60, [*range(0, 60, 5)])])
def test_shards_show_totals_and_clients(clients: int, shown: list[int]) -> None:
    figure = new_figure(6, 4)
    bars, heat = (add_axes(figure, left=1, right=0.1) for _ in range(2))
    draw_shards(bars, heat, [[2, client] for client in range(clients)], ["a", "b"])
    assert [bar.get_height() for bar in bars.patches] == [2 + n for n in range(clients)]  # type: ignore[attr-defined]
    assert heat.get_xticks().tolist() == shown
    assert [label.get_text() for label in heat.get_yticklabels()] == ["a", "b"]


def test_many_classes_are_numbered() -> None:
    axes = add_axes(new_figure(4, 4), left=1, right=0.1)
    name_rows(axes, [f"class {number}" for number in range(31)])
    assert axes.get_ylabel() == "class number"
