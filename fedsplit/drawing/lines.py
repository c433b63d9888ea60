"""Lines with their labels beside them. Lines that would hide each other are told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsplit.drawing.axes import shortened
from fedsplit.drawing.palette import (
    GRID,
    INK,
    LINE_POINTS,
    MARK_POINTS,
    MUTED,
    SMALL,
    looks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_INCHES = 1.88
"""The margin that labels need beside the axes."""
LINE_INCHES = 0.19
_LOG_FROM_RATIO = 12
_SAME_WITHIN_POINTS = 2.0
_DASH = 3.5  # times the width of the line
_MARKS_UP_TO_POINTS = 31
_FAINT_FROM_LINES = 5


_Place = Sequence[float]
"""x and y on the page, in points."""


@dataclass(frozen=True)
class Line:
    """A line of a picture: how a score changes with a quantity that grows from round to round.

    Attributes
    ----------
    label : str
        Its name.
    number : int
        Decides its colour and mark, so that a variant looks the same in every picture.
    xs, ys : Sequence[float]
        Its points.
    deviations : Sequence[float]
        The standard deviation of each y over the seeds; empty if there is one seed.
    """

    label: str
    number: int
    xs: Sequence[float]
    ys: Sequence[float]
    deviations: Sequence[float] = ()

    @property
    def is_level(self) -> bool:
        """Whether x does not grow, because the variant sends nothing."""
        return self.xs[-1] == 0


def draw_lines(
    axes: Axes, lines: Sequence[Line], *, along: str, unit: str | None, measure: str
) -> list[list[str]]:
    """Draw lines with bands of ± one deviation, and their labels in the order of the last values.

    Parameters
    ----------
    axes : Axes
        In the style of all pictures, with `LABEL_INCHES` of space beside them.
    lines : Sequence[Line]
        At least one. A level line is drawn across the picture.
    along : str
        The label of x.
    unit : str | None
        The unit of x, or None for rounds.
    measure : str
        What y is. An accuracy is at most 1.

    Returns
    -------
    list[list[str]]
        The labels of lines that lie on each other, by group. Their dashes alternate.
    """
    log = _scale(axes, lines, unit=unit, measure=measure)
    axes.set_xlabel(along + (" (log scale)" if log else ""), color=MUTED, fontsize=SMALL)
    opacity = 0.15 if len(lines) < _FAINT_FROM_LINES else 0.07
    groups = list(_together(axes, lines, log=log))
    for group in groups:
        for place, line in enumerate(group):
            _draw(axes, line, log=log, place=place, of=len(group), opacity=opacity)
    _label(axes, sorted(lines, key=lambda line: -line.ys[-1]))
    return [[line.label for line in group] for group in groups if len(group) > 1]


def _scale(axes: Axes, lines: Sequence[Line], *, unit: str | None, measure: str) -> bool:
    """Set the limits and ticks; return whether x is logarithmic."""
    from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

    growing = [line for line in lines if not line.is_level]
    ends = [line.xs[-1] for line in growing] or [1.0]
    log = unit is not None and max(ends) > _LOG_FROM_RATIO * min(ends)
    if log:
        axes.set_xscale("log")
        first = min(min(x for x in line.xs if x > 0) for line in growing)
        axes.set_xlim(first / 1.3, max(ends) * 1.3)
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, max(ends) * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=unit is None))
    if unit is not None:
        axes.xaxis.set_major_formatter(EngFormatter(unit, sep="\N{NO-BREAK SPACE}"))
    top = max(
        y + d
        for line in lines
        for y, d in zip(line.ys, line.deviations or [0.0] * len(line.ys), strict=True)
    )
    axes.set_ylim(0, (min(1.0, top * 1.05) if "accuracy" in measure else top * 1.05) or 1.0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    return log


def _points(line: Line, *, log: bool) -> list[tuple[float, float, float]]:
    """Return x, y and deviation of the points that are drawn: a logarithm of 0 is none."""
    deviations = line.deviations or [0.0] * len(line.ys)
    every = zip(line.xs, line.ys, deviations, strict=True)
    return [point for point in every if point[0] > 0 or not log]


def _together(axes: Axes, lines: Sequence[Line], *, log: bool) -> Iterator[list[Line]]:
    """Yield the lines, those together that cannot be told apart where they are drawn."""
    points_per_pixel = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    found: list[tuple[list[_Place], list[Line]]] = []
    for line in lines:
        data = [point[:2] for point in _points(line, log=log)]
        drawn = (axes.transData.transform(data) * points_per_pixel).tolist()
        for other, group in found:
            if not line.is_level and not group[0].is_level and _overlap(drawn, other):
                group.append(line)
                break
        else:
            found.append((drawn, [line]))
    yield from (group for _, group in found)


def _overlap(one: Sequence[_Place], two: Sequence[_Place]) -> bool:
    """Whether two lines lie on each other, or a shorter one on the beginning or end of the other.

    The score before training is measured on the test images alone, so lines begin apart.
    """
    count = min(len(one), len(two))
    return count > 1 and any(
        all(
            abs(a - b) <= _SAME_WITHIN_POINTS
            for first, second in zip(*parts, strict=True)
            for a, b in zip(first, second, strict=True)
        )
        for parts in ((one[:count], two[:count]), (one[-count:], two[-count:]))
    )


def _draw(axes: Axes, line: Line, *, log: bool, place: int, of: int, opacity: float) -> None:
    """Draw a line: the `place`-th of so many that lie on each other."""
    style = looks(line.number)
    if line.is_level:
        level = {key: value for key, value in style.items() if key != "marker"}
        axes.axhline(line.ys[-1], **level | {"linestyle": ":"})  # type: ignore[arg-type]
        return
    xs, ys, deviations = zip(*_points(line, log=log), strict=True)
    if of > 1:
        # Each is seen in the gaps of the others, and its marks around theirs.
        style["linestyle"] = ((of - place) % of * _DASH, (_DASH, (of - 1) * _DASH))
        style["markersize"] = MARK_POINTS + 2.5 * (of - 1 - place)
        style["dash_capstyle"] = "butt"
    if len(xs) > _MARKS_UP_TO_POINTS:
        style["markevery"] = max(1, len(xs) // 10)
    axes.plot(xs, ys, **style, clip_on=False, zorder=3)  # type: ignore[arg-type]
    if any(deviations):
        low = [y - d for y, d in zip(ys, deviations, strict=True)]
        high = [y + d for y, d in zip(ys, deviations, strict=True)]
        axes.fill_between(xs, low, high, color=style["color"], alpha=opacity, linewidth=0)


def _label(axes: Axes, lines: Sequence[Line]) -> None:
    """Write the labels in the order of the last values, each beside a sample of its line."""
    from matplotlib.lines import Line2D

    dpi = axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    height, width = axes.bbox.height / dpi, axes.bbox.width / dpi
    step = min(LINE_INCHES, height / max(1, len(lines))) / height
    low, high = axes.get_ylim()
    wanted = [(line.ys[-1] - low) / (high - low) for line in lines]
    for line, place in zip(lines, spread(wanted, step), strict=True):
        sample = looks(line.number) | {"linewidth": LINE_POINTS, "markevery": [1]}
        if line.is_level:
            sample |= {"linestyle": ":", "marker": ""}
        start = 1 + 0.1 / width
        axes.add_line(
            Line2D(
                [start, start + 0.13 / width, start + 0.26 / width],
                [place] * 3,
                **sample,  # type: ignore[arg-type]
                transform=axes.transAxes,
                clip_on=False,
            )
        )
        axes.text(
            start + 0.34 / width,
            place,
            f"{shortened(line.label)} {_value(line.ys[-1])}",
            transform=axes.transAxes,
            color=INK,
            fontsize=SMALL,
            va="center",
            parse_math=False,
        )


def _value(y: float) -> str:
    return f"{y:.1e}" if abs(y) >= 1e6 else f"{y:.{3 if abs(y) < 1 else 2}f}"


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
