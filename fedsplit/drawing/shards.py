"""The shards: the images of each client, in all and of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsplit.drawing.heat import NUMBERS_UP_TO, draw_heat, name_rows
from fedsplit.drawing.palette import INK, MUTED, SERIES, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_EVERY_CLIENT_UP_TO = 20


def draw_shards(
    bars: Axes, heat: Axes | None, class_counts: Sequence[Sequence[int]], names: Sequence[str]
) -> None:
    """Draw a bar for the images of each client, and a heat map of clients by classes.

    Parameters
    ----------
    bars, heat : Axes
        In the style of all pictures, one above the other. Without `heat` there are only bars.
    class_counts : Sequence[Sequence[int]]
        Training images of each client and class, [K, classes].
    names : Sequence[str]
        The names of the classes, [classes].
    """
    counts = np.asarray(class_counts, dtype=np.int64).reshape(-1, len(names))
    _draw_totals(bars, counts.sum(axis=1).tolist())
    clients = len(counts)
    bars.set_xlim(-0.5, clients - 0.5)
    lowest = bars
    if heat is not None:
        bars.set_xticks([])
        lowest = heat
        # An even division is half dark, not all dark; the square root separates a few from none.
        most = max(1.0, float(counts.max(initial=0)), 4.0 * counts.sum() / max(1, counts.size))
        draw_heat(
            heat,
            np.sqrt(counts.T / most),
            text=lambda label, client: str(counts[client, label]),
        )
        name_rows(heat, names)
    every = 1 if clients <= _EVERY_CLIENT_UP_TO else 5 * -(-clients // 100)
    lowest.set_xticks(range(0, clients, every))
    lowest.set_xlabel("client", color=MUTED, fontsize=SMALL)


def _draw_totals(axes: Axes, totals: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.bar(range(len(totals)), totals, width=0.8, color=SERIES[0], linewidth=0)
    axes.set_title("training images", loc="left", fontsize=SMALL, color=MUTED, pad=6)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_ylim(0, max(1, *totals, 1) * 1.15)
    if len(totals) <= NUMBERS_UP_TO:
        axes.set_yticks([])
        for client, total in enumerate(totals):
            axes.annotate(
                f"{total:,}",
                (client, total),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=SMALL - 1,
                color=INK,
            )
