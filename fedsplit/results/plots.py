"""The picture of a run: scores by round, and bytes by purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsplit.fields import Purpose, traffic_fields
from fedsplit.names import printable
from fedsplit.results.summary import how_split, scores_by_round
from fedsplit.results.text import counted, fixed, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]

# From the palette of Okabe and Ito, which suits any kind of colour vision.
_DATA_COLOURS = {"train": "#D55E00", "test": "#0072B2", "validation": "#009E73"}
# Directions differ in lightness, so that no colour means two things in one picture.
_DIRECTIONS = {"uplink": ("#3B4A54", -0.05), "downlink": ("#9FB0BA", 0.25)}
INK, MUTED, GRID = "#222222", "#666666", "#E4E4E4"
_FONT_SIZE = 9.5
_MARKERS_UP_TO_ROUNDS = 30
_LABEL_GAP = 0.07
"""The smallest distance between two labels, as a share of the axis."""


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 4.4), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    accuracy, loss, traffic = figure.subplots(
        1, 3, width_ratios=(1, 1, 0.9), gridspec_kw={"wspace": 0.52}
    )
    figure.subplots_adjust(left=0.04, right=0.98, top=0.76, bottom=0.13)
    figure.text(0.04, 0.93, _title(summary), fontsize=14, color=INK, weight="bold")
    about = _subtitle(summary)  # with names that people chose: a $ in them is a $
    figure.text(0.04, 0.868, about, fontsize=10, color=MUTED, parse_math=False)
    _curves(accuracy, rows, summary, "accuracy")
    _curves(loss, rows, summary, "loss")
    _traffic(traffic, summary)
    figure.savefig(path)


def _title(summary: Mapping[str, Any]) -> str:
    return f"{summary['strategy']}, {how_split(summary)}"


def _subtitle(summary: Mapping[str, Any]) -> str:
    return (
        f"{_short(summary['model'])} on {_short(summary['dataset'])} ({summary['partitioner']}), "
        f"{counted(summary['num_clients'], 'client')}, "
        f"{counted(summary['finished_rounds'], 'round')}, "
        f"seed {summary['seed']}"
    )


def _short(name: str, length: int = 40) -> str:
    shown = printable(name)
    return shown if len(shown) <= length else "…" + shown[-length + 1 :]


def _curves(axes: Axes, rows: Sequence[Row], summary: Row, measure: str) -> None:
    """Draw one line for each measured set of images, and write its name at the end of the line."""
    from matplotlib.ticker import MaxNLocator

    style(axes, f"{measure.capitalize()} by round")
    ends: list[tuple[float, str, str]] = []
    top = 1.0 if measure == "accuracy" else 0.0
    for data, points in scores_by_round(rows, summary, measure).items():
        colour = _DATA_COLOURS[data]
        xs, ys = zip(*points, strict=True)
        axes.plot(
            xs,
            ys,
            color=colour,
            linewidth=2.2 if data == "test" else 1.5,
            zorder=4 if data == "test" else 3,
            marker="o" if len(rows) <= _MARKERS_UP_TO_ROUNDS else "",
            markersize=3.5,
            clip_on=False,
        )
        ends.append((ys[-1], f"{data} {fixed(ys[-1], 3)}", colour))
        top = max(top, *ys)
    if not ends:
        _say(axes, "not measured")
        return
    axes.set_xlim(0, rows[-1]["round"])
    axes.set_ylim(0, top if measure == "accuracy" else top * 1.04 or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round", color=MUTED)
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write each name beside the end of its line, and move names apart that would touch."""
    ends = sorted(ends)
    wanted = [y / axes.get_ylim()[1] for y, _, _ in ends]
    places = wanted.copy()
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + _LABEL_GAP)
    # Move all of them down by the mean of what they were pushed up, but not below the axis.
    shift = min((sum(places) - sum(wanted)) / len(places), places[0])
    for place, (_, text, colour) in zip(places, ends, strict=True):
        axes.text(
            1.03,
            place - shift,
            text,
            transform=axes.transAxes,
            color=colour,
            fontsize=_FONT_SIZE,
            va="center",
        )


def _traffic(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Draw the bytes of the run as two bars for each purpose."""
    style(axes, "Traffic of all clients in the whole run")
    purposes: dict[Purpose, str] = {"sync": "synchronising the model"}
    if summary["cut_layer"] is not None:
        purposes = {
            "cut": "cut, training",
            "evaluate": "cut, evaluation",
            "sync": "synchronising the bottoms",
        }
    fields = {purpose: traffic_fields(purpose) for purpose in purposes}
    most = max(summary[field.key] for pair in fields.values() for field in pair) or 1
    for row, (purpose, name) in enumerate(purposes.items()):
        axes.text(0, row - 0.32, name, va="center", color=MUTED, fontsize=_FONT_SIZE)
        for field, (direction, (colour, offset)) in zip(
            fields[purpose], _DIRECTIONS.items(), strict=True
        ):
            size = float(summary[field.key])
            axes.barh(row + offset, size, height=0.26, color=colour)
            axes.text(
                size + 0.02 * most,
                row + offset,
                f"{shown(field, size)} {direction}",
                va="center",
                color=INK,
                fontsize=_FONT_SIZE,
            )
    axes.set_yticks([])
    axes.set_ylim(
        2.5, -0.5
    )  # always room for three, so that bars have the same height in every picture
    axes.set_xlim(0, most * 1.62)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)


def style(axes: Axes, title: str) -> None:
    """Give axes a title and the style of all pictures of this project."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0, labelsize=9.5)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)


def _say(axes: Axes, text: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=MUTED)
