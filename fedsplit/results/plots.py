"""The picture of a run: scores by round, and bytes by purpose."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsplit.drawing.axes import add_axes, new_figure, without_axes
from fedsplit.drawing.lines import LABEL_INCHES, Line, draw_lines
from fedsplit.drawing.palette import FONT_SIZE, INK, MUTED, SMALL, traffic_colour
from fedsplit.fields import FIELDS, BuiltIn
from fedsplit.names import printable
from fedsplit.results.summary import SCORED_DATA, how_split, scores_by_round
from fedsplit.results.text import counted, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

TRAFFIC_TITLE = "Bytes of all clients in the whole run"
_WIDTH, _HEIGHT = 13.5, 4.4
_PANEL_INCHES = 2.65
_MOST_ROWS = 6  # so that bars have the same height in every picture


def plot_run(rows: Sequence[Row], summary: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy and loss by round, and bytes by purpose and direction.

    Parameters
    ----------
    rows : Sequence[Row]
        The rounds (see `fedsplit.fields.ROUND_FIELDS`).
    summary : Mapping[str, Any]
        The run's summary (see `fedsplit.results.summary.summarise`).
    path : Path
        The file to write. Its suffix decides the format.
    """
    figure = new_figure(_WIDTH, _HEIGHT)
    figure.text(0.035, 0.93, _title(summary), fontsize=14, color=INK, weight="bold")
    about = _subtitle(summary)  # with names that people chose: a $ in them is a $
    figure.text(0.035, 0.868, about, fontsize=FONT_SIZE, color=MUTED, parse_math=False)
    left = 0.48
    for measure in ("accuracy", "loss"):
        right = _WIDTH - left - _PANEL_INCHES
        axes = add_axes(figure, left=left, right=right, top=1.05)
        axes.set_title(f"{measure.capitalize()} by round", loc="left", fontsize=11, color=INK)
        draw_scores(axes, rows, summary, measure)
        left += _PANEL_INCHES + LABEL_INCHES + 0.4
    axes = add_axes(figure, left=left, right=0.2, top=1.05, bottom=0.2)
    axes.set_title(TRAFFIC_TITLE, loc="left", fontsize=11, color=INK)
    draw_traffic(axes, summary)
    figure.savefig(path)


def _title(summary: Mapping[str, Any]) -> str:
    return f"{summary['strategy']}, {how_split(summary)}"


def _subtitle(summary: Mapping[str, Any]) -> str:
    done, asked = summary["finished_rounds"], summary["num_rounds"]
    rounds = counted(done, "round") if done == asked else f"{done} of {asked} rounds"
    return (
        f"{_short(summary['model'])} on {_short(summary['dataset'])} ({summary['partitioner']}), "
        f"{counted(summary['num_clients'], 'client')}, {rounds}, seed {summary['seed']}"
    )


def _short(name: str, length: int = 40) -> str:
    shown = printable(name)
    return shown if len(shown) <= length else "…" + shown[-length + 1 :]


def draw_scores(axes: Axes, rows: Sequence[Row], summary: Row, measure: str) -> list[list[str]]:
    """Draw a line for each set of images that was scored; return those that lie on each other.

    Parameters
    ----------
    axes : Axes
        In the style of all pictures, with space for labels beside them.
    rows, summary : Sequence[Row], Row
        See `plot_run`.
    measure : str
        ``accuracy`` or ``loss``.
    """
    found = scores_by_round(rows, summary, measure)
    lines = [
        Line(data, number, [float(x) for x, _ in points], [y for _, y in points])
        for number, data in enumerate(SCORED_DATA)
        if (points := found.get(data))
    ]
    if not lines:
        without_axes(axes)
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=MUTED)
        return []
    # A single point before the first round is no level line.
    drawn = [
        line if line.xs[-1] else Line(line.label, line.number, [0.0, 1.0], [*line.ys, *line.ys])
        for line in lines
    ]
    return draw_lines(axes, drawn, along="round", unit=None, measure=measure)


def traffic_shown(summary: Mapping[str, Any]) -> list[BuiltIn]:
    """Return the fields of bytes that a picture of this run shows: of the cut, if it is split."""
    split = summary["cut_layer"] is not None
    purposes = ("cut", "evaluate", "sync") if split else ("sync", "evaluate")
    keys = [f"{purpose}_{way}_bytes" for purpose in purposes for way in ("uplink", "downlink")]
    return [FIELDS[key] for key in keys]


def draw_traffic(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Draw the bytes of the run as a bar for each purpose and direction."""
    fields = traffic_shown(summary)
    sizes = [float(summary[field.key] or 0) for field in fields]
    most = max(sizes, default=0.0) or 1.0
    without_axes(axes)
    for row, (field, size) in enumerate(zip(fields, sizes, strict=True)):
        # Names are inside the axes: a page of 5 inches has no room beside them.
        axes.barh(row + 0.17, size, height=0.36, color=traffic_colour(field.key), linewidth=0)
        axes.text(0, row - 0.2, field.label, va="center", color=MUTED, fontsize=SMALL)
        axes.text(
            size + 0.02 * most,
            row + 0.17,
            shown(field, size),
            va="center",
            color=INK,
            fontsize=SMALL,
        )
    axes.set_ylim(_MOST_ROWS - 0.5, -0.5)
    axes.set_xlim(0, most * 1.3)


def draw_or_warn(path: Path, plot: Callable[[Path], None]) -> None:
    """Draw a picture; if that fails, log a warning, because it must not end a run."""
    with warnings.catch_warnings():
        # Names in a script that matplotlib's font lacks appear as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        try:
            plot(path)
        except Exception as error:
            _logger.warning(
                "'%s' cannot be drawn (%s: %s); the run continues without this picture.",
                *(path, type(error).__name__, error),
            )
