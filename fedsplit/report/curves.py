"""Pictures of lines: the accuracy of variants against a quantity, and the scores of a run."""

from __future__ import annotations

from collections.abc import Sequence

from fedsplit.drawing.axes import add_axes
from fedsplit.drawing.lines import LABEL_INCHES, LINE_INCHES, Line, draw_lines
from fedsplit.drawing.palette import MUTED, SMALL
from fedsplit.report.gather import RunRecord
from fedsplit.report.picture import Picture, note_on_same
from fedsplit.report.svg import new_figure, to_svg
from fedsplit.results.plots import draw_scores

_LEFT = 0.42
_TITLE_INCHES = 0.32


def draw_curves(
    lines: Sequence[Line],
    *,
    name: str,
    caption: str,
    alt: str,
    along: str,
    unit: str | None,
    measure: str = "test accuracy",
) -> Picture:
    """Draw lines; the caption says which of them lie on each other.

    Parameters
    ----------
    lines : Sequence[Line]
        One for each variant.
    name : str
        See `to_svg`.
    caption, alt : str
        The text below the picture, and what is said to readers who cannot see it.
    along : str
        The label of x.
    unit : str | None
        The unit of x, or None for rounds.
    measure : str
        The label of y. An accuracy is at most 1.
    """
    figure = new_figure(max(2.9, 0.85 + LINE_INCHES * len(lines)))
    axes = add_axes(figure, left=_LEFT, right=LABEL_INCHES, top=_TITLE_INCHES)
    axes.set_title(measure, loc="left", fontsize=SMALL, color=MUTED, pad=8, x=-0.1)
    same = draw_lines(axes, lines, along=along, unit=unit, measure=measure)
    return Picture(caption + note_on_same(same), to_svg(figure, name, alt))


def draw_run(record: RunRecord, measure: str) -> Picture:
    """Draw accuracy or loss of a run by round.

    Parameters
    ----------
    record : RunRecord
        The run.
    measure : str
        ``accuracy`` or ``loss``.
    """
    figure = new_figure(2.9)
    axes = add_axes(figure, left=_LEFT, right=LABEL_INCHES, top=_TITLE_INCHES)
    axes.set_title(measure, loc="left", fontsize=SMALL, color=MUTED, pad=8, x=-0.1)
    same = draw_scores(axes, record.rounds, record.summary, measure)
    caption = f"{measure.capitalize()} by round"
    return Picture(caption + note_on_same(same), to_svg(figure, measure, caption))
