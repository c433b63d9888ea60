"""The clients' images by class, as a text table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedsplit.names import printable

if TYPE_CHECKING:  # a client draws nothing, and matplotlib takes half a second to import
    from matplotlib.axes import Axes

Counts = npt.NDArray[np.int64]
TABLE_WIDTH = 100
ALL_CLIENTS_UP_TO = 20
EXTREME_CLIENTS = 5
NARROWEST_COLUMN = 6
NUMBERS_UP_TO = 12
CLASS_NAMES_UP_TO = 30


def shard_table(class_counts: Sequence[Sequence[int]], class_names: Sequence[str]) -> str:
    """Return a text table of at most 100 columns.

    If there are more than 20 clients, it has the five largest and the five smallest. If there are
    too many classes for a column each, it has the three largest classes of each client.

    Parameters
    ----------
    class_counts : Sequence[Sequence[int]]
        [K, classes], images of each client and class (see `fedsplit.data.partition`).
    class_names : Sequence[str]
        [classes].
    """
    counts = np.asarray(class_counts, dtype=np.int64).reshape(-1, len(class_names))
    totals = counts.sum(axis=1)
    class_names = [printable(name) for name in class_names]
    clients = list(range(len(counts)))
    if len(clients) > ALL_CLIENTS_UP_TO:
        by_size = sorted(clients, key=lambda client: (-totals[client], client))
        clients = by_size[:EXTREME_CLIENTS] + by_size[-EXTREME_CLIENTS:]
    narrow = NARROWEST_COLUMN * len(class_names) > TABLE_WIDTH - 16
    rows = _largest_classes(counts, class_names) if narrow else _columns(counts, class_names)
    lines = [rows[0], *(rows[1 + client] for client in clients)]
    if len(clients) < len(counts):
        hidden = len(counts) - len(clients)
        lines.insert(1 + EXTREME_CLIENTS, f"   ...  ({hidden} more clients, of sizes in between)")
    return "\n".join([_summary(counts), *lines, rows[-1]])


def plot_shards(
    class_counts: Sequence[Sequence[int]], class_names: Sequence[str], path: str | Path
) -> None:
    """Draw a heat map of clients by classes, below the clients' totals.

    Parameters
    ----------
    class_counts : Sequence[Sequence[int]]
        [K, classes], images of each client and class.
    class_names : Sequence[str]
        [classes].
    path : str | Path
        File to write; its suffix (.png, .svg, .pdf) decides the format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.asarray(class_counts, dtype=np.int64).reshape(-1, len(class_names))
    num_clients, num_classes = counts.shape
    width = min(14.0, max(7.0, 2.6 + 0.62 * num_clients))
    height = min(10.0, max(4.0, 2.0 + 0.36 * num_classes))
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    bars, heat = figure.subplots(2, 1, sharex=True, height_ratios=[1, max(2.0, height / 1.9)])
    figure.suptitle(_summary(counts), fontsize=11, x=0.01, ha="left")
    _draw_totals(bars, counts.sum(axis=1))
    _draw_heat(heat, counts, class_names)
    if num_clients > NUMBERS_UP_TO or num_classes > NUMBERS_UP_TO:
        scale = figure.colorbar(heat.images[0], ax=heat, pad=0.01, fraction=0.03)
        scale.set_label("images of a class")
        scale.outline.set_visible(False)
    figure.savefig(path, dpi=150)


def _summary(counts: Counts) -> str:
    sizes = [int(size) for size in counts.sum(axis=1)]
    held = [int(number) for number in (counts > 0).sum(axis=1)]
    clients = f"{len(sizes)} client{'s' if len(sizes) != 1 else ''}"
    return f"{sum(sizes):,} images, {clients}: {_range(sizes, 'images')}, {_range(held, 'classes')}"


def _range(values: list[int], what: str) -> str:
    low, high = min(values, default=0), max(values, default=0)
    if low == high:
        return f"{low:,} {what} each"
    return f"{low:,} to {high:,} {what} (median {median(values):,.0f})"


def _columns(counts: Counts, class_names: Sequence[str]) -> list[str]:
    """Return a header, a line for each client and a line of totals, with a column per class."""
    fits = (TABLE_WIDTH - 16) // len(class_names)
    width = min(fits, 2 + max(len(text) for text in [*class_names, str(counts.sum())]))
    names = "".join(f"{name[: width - 1]:>{width}}" for name in class_names)

    def line(name: str, row: Counts) -> str:
        cells = "".join(f"{count or '-':>{width}}" for count in row.tolist())
        return f"{name:>6}{cells}{int(row.sum()):>9}"

    clients = [line(str(client), row) for client, row in enumerate(counts)]
    return [f"client{names}{'total':>9}", *clients, line("all", counts.sum(axis=0))]


def _largest_classes(counts: Counts, class_names: Sequence[str]) -> list[str]:
    """Return the same lines with the total, the number of classes and the largest classes."""

    def line(name: str, row: Counts) -> str:
        order = np.argsort(-row, kind="stable")[:3]
        largest = ", ".join(f"{class_names[c][:16]} {row[c]}" for c in order if row[c])
        return f"{name:>6}{int(row.sum()):>9}{int((row > 0).sum()):>9}  {largest}"

    clients = [line(str(client), row) for client, row in enumerate(counts)]
    head = f"client{'total':>9}{'classes':>9}  largest classes"
    return [head, *clients, line("all", counts.sum(axis=0))]


def _draw_totals(axes: Axes, totals: Counts) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.bar(np.arange(len(totals)), totals, width=0.8, color="#4a7fb5")
    axes.set_ylabel("images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", which="both", length=0, labelbottom=False)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_ylim(0, max(1, int(totals.max(initial=0))) * 1.15)
    if len(totals) <= NUMBERS_UP_TO:
        for client, total in enumerate(totals.tolist()):
            axes.annotate(
                f"{total:,}",
                (client, total),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )


def _draw_heat(
    axes: Axes,
    counts: Counts,
    class_names: Sequence[str],
) -> None:
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator

    num_clients, num_classes = counts.shape
    # An even division is half dark, not all dark; the square root separates a few from none.
    darkest = max(1.0, float(counts.max(initial=0)), 4.0 * counts.sum() / max(1, counts.size))
    axes.imshow(
        counts.T,
        cmap="Blues",
        norm=PowerNorm(0.5, vmin=0, vmax=darkest),
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_xlabel("client")
    axes.xaxis.set_major_locator(MaxNLocator(min(num_clients, 20), integer=True))
    if num_clients <= ALL_CLIENTS_UP_TO:
        axes.set_xticks(range(num_clients))
    axes.set_xlim(-0.5, num_clients - 0.5)
    if num_classes <= CLASS_NAMES_UP_TO:
        names = [printable(name)[:20] for name in class_names]
        axes.set_yticks(range(num_classes), names, parse_math=False)  # a $ is a $
    else:
        axes.set_ylabel("class number")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if num_clients <= NUMBERS_UP_TO and num_classes <= NUMBERS_UP_TO:
        for (client, label), count in np.ndenumerate(counts):
            if count:
                dark = (count / darkest) ** 0.5 > 0.6
                axes.text(
                    client,
                    label,
                    str(count),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "#1f3a57",
                )
        axes.set_xticks(np.arange(num_clients + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
