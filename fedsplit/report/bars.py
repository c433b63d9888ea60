"""Bars of bytes, of what client and server hold, and the picture of the shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from fedsplit.fields import fields_shown_in
from fedsplit.report.curves import shortened
from fedsplit.report.svg import FONT_SIZE, GRID, INK, MUTED, SERIES, WIDTH_INCHES, new_axes, to_svg
from fedsplit.results.text import NOTHING, with_unit

_ROW_INCHES = 0.3
_LABEL_INCHES = 1.3
_MAX_CLIENTS, _MAX_CLASSES = 40, 30

EVALUATION = "evaluation"
TRAFFIC = {
    field.short_label: colour
    for field, colour in zip(
        fields_shown_in("traffic"), (SERIES[0], SERIES[5], SERIES[1], SERIES[4]), strict=True
    )
} | {EVALUATION: SERIES[6]}
"""Part of a bar of bytes -> its colour, in the order of the parts."""
SIDES = {"client": SERIES[0], "server": SERIES[4]}


def draw_stacks(
    stacks: Mapping[str, Mapping[str, float]],
    *,
    name: str,
    alt: str,
    unit: str = "B",
    colours: Mapping[str, str] = TRAFFIC,
) -> str:
    """Draw one bar for each row, made of parts, with the sum at its end.

    Parameters
    ----------
    stacks : Mapping[str, Mapping[str, float]]
        Row -> part -> size.
    name, alt : str
        The name and description of the picture (see `to_svg`).
    unit : str
        The unit of the sizes.
    colours : Mapping[str, str]
        Part -> colour, in drawing order.
    """
    axes = _rows(list(stacks), rows_inches=_ROW_INCHES)
    totals = [sum(parts.values()) for parts in stacks.values()]
    most = max(totals, default=0) or 1.0
    for row, parts in enumerate(stacks.values()):
        left = 0.0
        for part, colour in colours.items():
            axes.barh(row, parts.get(part, 0.0), left=left, height=0.62, color=colour, linewidth=0)
            left += parts.get(part, 0.0)
        axes.text(
            left + 0.015 * most,
            row,
            with_unit(totals[row], unit),
            va="center",
            color=INK,
            fontsize=FONT_SIZE - 1,
        )
    axes.set_xlim(0, most * 1.24)
    _legend(axes, colours)
    return to_svg(axes, name, alt)


def draw_pairs(
    pairs: Mapping[str, tuple[float | None, float | None]], *, name: str, alt: str, unit: str
) -> str:
    """Draw a bar of a client and a bar of the server for each row.

    Parameters
    ----------
    pairs : Mapping[str, tuple[float | None, float | None]]
        Row -> (client, server).
    name, alt, unit : str
        See `draw_stacks`.
    """
    axes = _rows(list(pairs), rows_inches=0.44)
    most = max((size or 0.0 for pair in pairs.values() for size in pair), default=0.0) or 1.0
    for row, pair in enumerate(pairs.values()):
        for (side, colour), size, offset in zip(SIDES.items(), pair, (-0.2, 0.2), strict=True):
            axes.barh(row + offset, size or 0.0, height=0.36, color=colour, linewidth=0)
            axes.text(
                (size or 0.0) + 0.015 * most,
                row + offset,
                NOTHING if size is None else f"{with_unit(size, unit)}" if size else f"no {side}",
                va="center",
                color=INK if size else MUTED,
                fontsize=FONT_SIZE - 2,
            )
    axes.set_xlim(0, most * 1.24)
    _legend(axes, SIDES)
    return to_svg(axes, name, alt)


def draw_shards(
    class_counts: Sequence[Sequence[int]], class_names: Sequence[str], *, name: str, alt: str
) -> str:
    """Draw a dot for each client and class, whose area is the number of images.

    With more than 40 clients or 30 classes, draw only the number of images of each client.

    Parameters
    ----------
    class_counts : Sequence[Sequence[int]]
        Training images of each client and class, [K, classes].
    class_names : Sequence[str]
        The names of the classes, [classes].
    name, alt : str
        See `draw_stacks`.
    """
    clients, classes = len(class_counts), len(class_names)
    if clients > _MAX_CLIENTS or classes > _MAX_CLASSES:
        axes = new_axes(2.6, left=0.6, right=0.2)
        axes.bar(range(clients), [sum(row) for row in class_counts], color=SERIES[0], width=0.85)
        axes.set_ylabel("training images", color=MUTED, fontsize=FONT_SIZE - 1)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
    else:
        axes = new_axes(0.9 + 0.24 * classes, left=_LABEL_INCHES, right=0.2)
        most = max(1, *(count for row in class_counts for count in row))
        cell_points = min(0.24, (WIDTH_INCHES - _LABEL_INCHES - 0.2) / clients) * 72
        dots = [
            (client, label, count)
            for client, row in enumerate(class_counts)
            for label, count in enumerate(row)
            if count
        ]
        xs, ys, counts = zip(*dots, strict=True)
        areas = [max(1.0, (0.98 * cell_points) ** 2 * count / most) for count in counts]
        axes.scatter(xs, ys, areas, color=SERIES[0], linewidth=0, zorder=3)
        axes.set_yticks(range(classes), [shortened(text) for text in class_names], parse_math=False)
        axes.set_xlim(-0.6, clients - 0.4)
        axes.set_ylim(classes - 0.4, -0.6)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_xticks(range(0, clients, 1 if clients <= 20 else 5))
        axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("client", color=MUTED, fontsize=FONT_SIZE - 1)
    return to_svg(axes, name, alt)


def _rows(labels: Sequence[str], *, rows_inches: float) -> Axes:
    axes = new_axes(0.5 + rows_inches * len(labels) + 0.3, left=_LABEL_INCHES, right=0.05)
    axes.set_position((axes.get_position().x0, 0.02, axes.get_position().width, 0.9))
    axes.set_yticks(range(len(labels)), [shortened(text) for text in labels], parse_math=False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=FONT_SIZE - 1)
    axes.set_xticks([])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines["bottom"].set_visible(False)
    return axes


def _legend(axes: Axes, colours: Mapping[str, str]) -> None:
    axes.legend(
        handles=[Patch(color=colour, label=part) for part, colour in colours.items()],
        loc="lower left",
        bbox_to_anchor=(-0.36, 1.0),
        ncols=len(colours),
        frameon=False,
        fontsize=FONT_SIZE - 1.5,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.1,
        handletextpad=0.4,
        labelcolor=INK,
        borderpad=0.1,
    )
