"""The clients' images by class, as a text table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from fedsplit.drawing.axes import add_axes, new_figure
from fedsplit.drawing.palette import INK
from fedsplit.drawing.shards import draw_shards
from fedsplit.names import printable

Counts = npt.NDArray[np.int64]
TABLE_WIDTH = 100
ALL_CLIENTS_UP_TO = 20
EXTREME_CLIENTS = 5
NARROWEST_COLUMN = 6


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
    names = [printable(name) for name in class_names]
    num_clients, num_classes = len(class_counts), len(names)
    width = min(14.0, max(7.0, 2.6 + 0.62 * num_clients))
    height = min(10.0, max(4.4, 2.4 + 0.36 * num_classes))
    figure = new_figure(width, height)
    counts = np.asarray(class_counts, dtype=np.int64).reshape(-1, len(names))
    figure.text(0.15 / width, 1 - 0.3 / height, _summary(counts), fontsize=11, color=INK)
    left = 1.3
    bars = add_axes(figure, left=left, right=0.15, bottom=height - 1.7, top=0.75)
    heat = add_axes(figure, left=left, right=0.15, bottom=0.55, top=1.8)
    draw_shards(bars, heat, class_counts, names)
    figure.savefig(path)


def _summary(counts: Counts) -> str:
    clients = f"{len(counts)} client{'s' if len(counts) != 1 else ''}"
    there = counts[counts.sum(axis=1) > 0]  # the others are left out of the run
    if 0 < len(there) < len(counts):
        clients, counts = f"at {len(there)} of {clients}", there
    sizes = [int(size) for size in counts.sum(axis=1)]
    held = [int(number) for number in (counts > 0).sum(axis=1)]
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
