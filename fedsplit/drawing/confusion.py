"""The confusion matrix as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsplit.drawing.axes import shortened
from fedsplit.drawing.heat import draw_heat, name_rows
from fedsplit.drawing.palette import MUTED, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_confusion(axes: Axes, matrix: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """Draw the share of the images of each class (rows) that is taken for each class (columns).

    Parameters
    ----------
    axes : Axes
        In the style of all pictures, with space for the names on the left and above.
    matrix : Sequence[Sequence[int]]
        Images of each true class (rows) by predicted class (columns).
    names : Sequence[str]
        The names of the classes.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    mistakes = ~np.eye(len(counts), dtype=bool)
    draw_heat(
        axes,
        np.sqrt(shares),
        text=lambda row, column: str(counts[row, column]),
        other=mistakes,
    )
    name_rows(axes, names)
    labels = [shortened(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("predicted", color=MUTED, fontsize=SMALL)
