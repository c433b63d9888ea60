"""Heat maps: a cell for each pair, the darker the larger its value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedsplit.drawing.axes import shortened
from fedsplit.drawing.palette import INK, PAPER, SERIES, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = npt.NDArray[np.float64]
NUMBERS_UP_TO = 12
NAMES_UP_TO = 30
_SINGLE_CELLS_UP_TO = 6000
_LIGHT_TEXT_FROM = 0.7


def draw_heat(
    axes: Axes,
    opacity: Values,
    *,
    text: Callable[[int, int], str],
    other: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Draw a heat map, with a number in each cell if there are at most 12 rows and columns.

    Parameters
    ----------
    axes : Axes
        Their ticks are the caller's.
    opacity : Values
        [rows, columns], from 0 (not drawn) to 1 (the full colour).
    text : Callable[[int, int], str]
        Returns the number in the cell of a row and column.
    other : npt.NDArray[np.bool_] | None
        Cells of a second colour.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    rows, columns = opacity.shape
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    numbered = rows <= NUMBERS_UP_TO and columns <= NUMBERS_UP_TO
    colours = [
        [SERIES[1 if other is not None and other[row, column] else 0] for column in range(columns)]
        for row in range(rows)
    ]
    if opacity.size > _SINGLE_CELLS_UP_TO:
        pixels = [
            [to_rgba(c, o) for c, o in zip(*line, strict=True)]
            for line in zip(colours, opacity, strict=True)
        ]
        axes.imshow(np.array(pixels), aspect="auto", interpolation="nearest")
        return
    gap = 0.02 if numbered else 0.0
    cells, faces = [], []
    for row, column in np.argwhere(opacity > 0).tolist():
        shade = round(float(opacity[row, column]), 2)
        cells.append(Rectangle((column - 0.5 + gap, row - 0.5 + gap), 1 - 2 * gap, 1 - 2 * gap))
        faces.append(to_rgba(colours[row][column], max(0.03, shade)))
        if numbered:
            ink = PAPER if shade > _LIGHT_TEXT_FROM else INK
            axes.text(
                *(column, row, text(row, column)),
                ha="center",
                va="center",
                fontsize=SMALL - 1.5,
                color=ink,
            )
    axes.add_collection(PatchCollection(cells, facecolors=faces, linewidths=0), autolim=False)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write the names of rows beside them, or how they are numbered if there are too many."""
    if len(names) <= NAMES_UP_TO:
        axes.set_yticks(range(len(names)), [shortened(name) for name in names], parse_math=False)
    else:
        axes.set_ylabel("class number", fontsize=SMALL)
