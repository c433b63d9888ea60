"""Bars of bytes and of what client and server hold, and the picture of the shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from fedsplit.drawing.axes import add_axes, shortened, without_axes
from fedsplit.drawing.palette import INK, MUTED, SERIES, SIDES, SMALL, traffic_colour
from fedsplit.drawing.shards import draw_shards as draw_shards_on
from fedsplit.fields import fields_shown_in
from fedsplit.report.svg import new_figure, to_svg
from fedsplit.results.text import NOTHING, with_unit

_ROW_INCHES = 0.3
_LABEL_INCHES = 1.3
_MAX_CELLS = 6000

EVALUATION = "evaluation"
PARTS = {field.short_label: traffic_colour(field.key) for field in fields_shown_in("traffic")} | {
    EVALUATION: SERIES[6]
}
"""Part of a bar of bytes -> its colour, in the order of the parts."""


def draw_stacks(
    stacks: Mapping[str, Mapping[str, float]],
    *,
    name: str,
    alt: str,
    unit: str = "B",
    colours: Mapping[str, str] = PARTS,
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
            fontsize=SMALL,
        )
    axes.set_xlim(0, most * 1.24)
    return _finished(axes, colours, name, alt)


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
                NOTHING if size is None else with_unit(size, unit) if size else f"no {side}",
                va="center",
                color=INK if size else MUTED,
                fontsize=SMALL - 1,
            )
    axes.set_xlim(0, most * 1.24)
    return _finished(axes, SIDES, name, alt)


def draw_shards(
    class_counts: Sequence[Sequence[int]], class_names: Sequence[str], *, name: str, alt: str
) -> str:
    """Draw the images of each client, and a heat map of clients by classes.

    With more than 6,000 pairs of a client and a class, draw only the images of each client.

    Parameters
    ----------
    class_counts : Sequence[Sequence[int]]
        Training images of each client and class, [K, classes].
    class_names : Sequence[str]
        The names of the classes, [classes].
    name, alt : str
        See `draw_stacks`.
    """
    classes = len(class_names)
    if len(class_counts) * classes > _MAX_CELLS:
        figure = new_figure(2.4)
        bars = add_axes(figure, left=0.6, right=0.1, top=0.3)
        draw_shards_on(bars, None, class_counts, class_names)
        return to_svg(figure, name, alt)
    cells = max(1.4, min(6.0, 0.24 * classes))
    height = 0.55 + cells + 1.35
    figure = new_figure(height)
    bars = add_axes(figure, left=_LABEL_INCHES, right=0.1, bottom=0.65 + cells, top=0.35)
    heat = add_axes(figure, left=_LABEL_INCHES, right=0.1, bottom=0.55, top=height - 0.55 - cells)
    draw_shards_on(bars, heat, class_counts, class_names)
    return to_svg(figure, name, alt)


def _rows(labels: Sequence[str], *, rows_inches: float) -> Axes:
    figure = new_figure(0.3 + rows_inches * len(labels) + 0.1)
    axes = add_axes(figure, left=_LABEL_INCHES, right=0.05, bottom=0.05, top=0.3)
    without_axes(axes)
    axes.set_yticks(range(len(labels)), [shortened(text) for text in labels], parse_math=False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=SMALL)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    return axes


def _finished(axes: Axes, colours: Mapping[str, str], name: str, alt: str) -> str:
    """Add the legend, and return the picture."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(
        handles=[Patch(color=colour, label=part) for part, colour in colours.items()],
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=len(colours),
        frameon=False,
        fontsize=SMALL - 0.5,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.1,
        handletextpad=0.4,
        labelcolor=INK,
        borderpad=0.1,
    )
    return to_svg(figure, name, alt)
