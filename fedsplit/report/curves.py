"""Curves: the accuracy of variants against rounds, bytes or FLOPs; the scores of a run."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from fedsplit.report.measures import Curve
from fedsplit.report.svg import FONT_SIZE, GRID, INK, MUTED, SERIES, new_axes, to_svg
from fedsplit.results.text import fixed

_MARKS = "os^DvPX<>ph*"
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))  # tell variants apart that share a colour
_LONGEST_LABEL = 16
_LINE_INCHES = 0.19
_LABEL_INCHES = 1.72
_LOG_FROM_RATIO = 12


def style(number: int) -> dict[str, object]:
    """Return the style of a variant, the same in every picture."""
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": _MARKS[number % len(_MARKS)],
        "linestyle": _DASHES[number // len(SERIES) % len(_DASHES)],
        "linewidth": 1.6,
        "markersize": 4,
    }


def draw_curves(
    curves: Sequence[Curve],
    *,
    name: str,
    alt: str,
    along: str,
    unit: str | None,
    measure: str = "test accuracy",
) -> str:
    """Draw curves with their labels beside them, in the order of their last values.

    A variant whose x does not grow, because it sends nothing, is a level line.

    Parameters
    ----------
    curves : Sequence[Curve]
        One for each variant.
    name, alt : str
        The name and description of the picture (see `to_svg`).
    along : str
        The label of x.
    unit : str | None
        The unit of x, or None for rounds.
    measure : str
        The label of y. An accuracy is at most 1.
    """
    axes = new_axes(max(2.9, 0.85 + _LINE_INCHES * len(curves)), left=0.42, right=_LABEL_INCHES)
    growing = [curve for curve in curves if curve.xs[-1] > 0]
    ends = [curve.xs[-1] for curve in growing] or [1.0]
    log = unit is not None and max(ends) > _LOG_FROM_RATIO * min(ends)
    for curve in curves:
        _draw(axes, curve, log=log)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, max(ends) * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=unit is None))
    if unit is not None:
        axes.xaxis.set_major_formatter(EngFormatter(unit, sep="\N{NO-BREAK SPACE}"))
    top = max((y for curve in curves for y in curve.ys), default=1.0)
    axes.set_ylim(0, (min(1.0, top * 1.08) if "accuracy" in measure else top * 1.08) or 1.0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_title(measure, loc="left", fontsize=FONT_SIZE - 1, color=MUTED, pad=4, x=-0.1)
    axes.set_xlabel(along + (" (log scale)" if log else ""), color=MUTED, fontsize=FONT_SIZE - 1)
    _label(axes, sorted(curves, key=lambda curve: -curve.ys[-1]))
    return to_svg(axes, name, alt)


def _draw(axes: Axes, curve: Curve, *, log: bool) -> None:
    looks = style(curve.number)
    if curve.xs[-1] == 0:
        level = {key: value for key, value in looks.items() if key != "marker"}
        axes.axhline(curve.ys[-1], **level | {"linestyle": ":"})  # type: ignore[arg-type]
        return
    points = [(x, y) for x, y in zip(curve.xs, curve.ys, strict=True) if x > 0 or not log]
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, **looks, clip_on=False, zorder=3)  # type: ignore[arg-type]
    if curve.deviation:
        axes.errorbar(
            xs[-1], ys[-1], curve.deviation, color=looks["color"], capsize=2.5, linewidth=1
        )


def _label(axes: Axes, curves: Sequence[Curve]) -> None:
    """Write the labels in the order of the last values, each beside a sample of its line."""
    height = axes.bbox.height / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    width = axes.bbox.width / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    step = min(_LINE_INCHES, height / max(1, len(curves))) / height
    low, high = axes.get_ylim()
    wanted = [(curve.ys[-1] - low) / (high - low) for curve in curves]
    for curve, place in zip(curves, spread(wanted, step), strict=True):
        looks = style(curve.number)
        if curve.xs[-1] == 0:
            looks |= {"linestyle": ":", "marker": ""}
        start = 1 + 0.1 / width
        axes.add_line(
            Line2D(
                [start, start + 0.13 / width, start + 0.26 / width],
                [place] * 3,
                **looks | {"markevery": [1]},  # type: ignore[arg-type]
                transform=axes.transAxes,
                clip_on=False,
            )
        )
        axes.text(
            start + 0.34 / width,
            place,
            f"{shortened(curve.label)} {fixed(curve.ys[-1], 2)}",
            transform=axes.transAxes,
            color=INK,
            fontsize=FONT_SIZE - 1,
            va="center",
            parse_math=False,
        )


def spread(wanted: Sequence[float], step: float) -> list[float]:
    """Move places apart until they are one step from each other, within 0 and 1.

    Parameters
    ----------
    wanted : Sequence[float]
        Falling values between 0 and 1.
    step : float
        The smallest distance. All places must fit.
    """
    places: list[float] = []
    for index, place in enumerate(wanted):
        # Leave room below for the places that follow.
        lowest = (len(wanted) - 1 - index) * step
        highest = places[-1] - step if places else 1.0
        places.append(min(highest, max(place, lowest)))
    return places


def shortened(label: str) -> str:
    """Return a label that fits beside a picture. Tables show it in full."""
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"
