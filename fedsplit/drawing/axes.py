"""Figures and axes in the style of all pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsplit.drawing.palette import FONT_SIZE, GRID, INK, MUTED, SMALL

if TYPE_CHECKING:  # a run loads matplotlib only when it draws
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST_LABEL = 16


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """Return an empty figure for a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_axes(
    figure: Figure, *, left: float, right: float, bottom: float = 0.55, top: float = 0.2
) -> Axes:
    """Return new axes of a figure in the style of all pictures.

    Parameters
    ----------
    figure : Figure
        The figure.
    left, right, bottom, top : float
        Its margins in inches.
    """
    width, height = figure.get_size_inches()
    place = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    axes = figure.add_axes(place)
    axes.patch.set_alpha(0.0)
    style(axes)
    return axes


def style(axes: Axes, title: str = "") -> None:
    """Give axes a title and the style of all pictures of this project."""
    if title:
        axes.set_title(title, loc="left", fontsize=FONT_SIZE, color=INK, pad=10, parse_math=False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0, labelsize=SMALL, pad=5)
    axes.tick_params(which="minor", length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)


def without_axes(axes: Axes) -> None:
    """Remove ticks, grid and spines."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def shortened(label: str, longest: int = _LONGEST_LABEL) -> str:
    """Return a label that fits beside a picture. Tables show it in full."""
    return label if len(label) <= longest else label[: longest - 1] + "…"
