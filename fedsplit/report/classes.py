"""How well each class is recognised: a table, and a picture of the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

from fedsplit.drawing.axes import add_axes
from fedsplit.drawing.confusion import draw_confusion
from fedsplit.report.gather import RunRecord
from fedsplit.report.page import Section
from fedsplit.report.picture import Picture
from fedsplit.report.svg import new_figure, to_svg
from fedsplit.report.tables import Cell, Table, exactly
from fedsplit.results.text import NOTHING, fixed

_MAX_DRAWN = 30
_LABEL_INCHES, _ROW_INCHES, _BELOW_INCHES = 1.3, 0.26, 0.3
_TEXT = (
    "The test images after the last round, by their class. Balanced accuracy is the mean of the "
    "accuracies of all classes, so that rare ones count as much as frequent ones."
)
_HOW_TO_READ = (
    " The stronger the colour of a cell, the larger the share of a class's images that are taken "
    "for the class of the column; cells beside the diagonal are mistakes."
)


def class_sections(record: RunRecord, *, drawn: bool) -> list[Section]:
    """Return the section on classes; none if the run's classes were not scored.

    Parameters
    ----------
    record : RunRecord
        The run.
    drawn : bool
        Whether the confusion matrix is drawn, if it is known and has at most 30 classes.
    """
    accuracies = record.summary["class_accuracy"]
    if accuracies is None or not record.class_names:
        return []
    matrix = record.summary["confusion_matrix"]
    draws = drawn and matrix is not None and len(matrix) <= _MAX_DRAWN
    return [
        Section(
            "Classes",
            _TEXT + (_HOW_TO_READ if draws else ""),
            pictures=[_picture(matrix, record.class_names)] if draws else [],
            tables=[_table(accuracies, matrix, record.class_names)],
        )
    ]


def _table(
    accuracies: Sequence[float | None],
    matrix: Sequence[Sequence[int]] | None,
    names: Sequence[str],
) -> Table:
    header = ["class", "test accuracy"]
    if matrix is not None:
        header += ["test images", "most often taken for"]
    rows = []
    for label, (name, accuracy) in enumerate(zip(names, accuracies, strict=True)):
        score = Cell(NOTHING) if accuracy is None else Cell(fixed(accuracy, 3), exactly(accuracy))
        rows.append([Cell(name), score])
        if matrix is not None:
            rows[-1] += [Cell(str(sum(matrix[label]))), _mistakes(matrix[label], label, names)]
    return Table("Each class", header, rows)


def _mistakes(row: Sequence[int], label: int, names: Sequence[str]) -> Cell:
    """Return the class that is predicted most often among the wrong ones, and how often."""
    wrong = {other: count for other, count in enumerate(row) if other != label and count}
    if not wrong:
        return Cell(NOTHING)
    most = max(wrong, key=lambda other: wrong[other])
    return Cell(f"{names[most]} ({wrong[most]})")


def _picture(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Picture:
    caption = "Predicted classes (columns) of the test images of each class (rows)"
    cells = _ROW_INCHES * len(names)
    figure = new_figure(_LABEL_INCHES + cells + _BELOW_INCHES)
    axes = add_axes(figure, left=_LABEL_INCHES, right=0.1, bottom=_BELOW_INCHES, top=_LABEL_INCHES)
    draw_confusion(axes, matrix, names)
    correct = sum(row[label] for label, row in enumerate(matrix))
    total = sum(map(sum, matrix))
    alt = f"{caption}. {correct} of {total} images are recognised."
    return Picture(caption, to_svg(figure, "confusion", alt))
