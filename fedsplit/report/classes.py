"""How well each class is recognised: a table, and a picture of the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

from fedsplit.report.curves import shortened
from fedsplit.report.gather import RunRecord
from fedsplit.report.pictures import Picture
from fedsplit.report.sections import Section
from fedsplit.report.svg import FONT_SIZE, GRID, MUTED, SERIES, WIDTH_INCHES, new_axes, to_svg
from fedsplit.report.tables import Cell, Table, exactly
from fedsplit.results.text import NOTHING, fixed

_MAX_DRAWN = 30
_LABEL_INCHES, _ROW_INCHES, _BELOW_INCHES = 1.3, 0.26, 0.35
_TEXT = (
    "The test images after the last round, by their class. Balanced accuracy is the mean of the "
    "accuracies of all classes, so that rare ones count as much as frequent ones."
)
_HOW_TO_READ = (
    " A dot's area is the share of a class's images that are taken for the class of the column; "
    "dots beside the diagonal are mistakes."
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
    header = ["class", "accuracy"]
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
    caption = "Predicted classes (columns) of the images of each class (rows)"
    count = len(names)
    height = _LABEL_INCHES + _ROW_INCHES * count + _BELOW_INCHES
    axes = new_axes(height, left=_LABEL_INCHES, right=0.2)
    place = axes.get_position()
    axes.set_position((place.x0, _BELOW_INCHES / height, place.width, _ROW_INCHES * count / height))
    cell_points = min(_ROW_INCHES, (WIDTH_INCHES - _LABEL_INCHES - 0.2) / count) * 72
    for hits in (True, False):
        dots = [
            (column, row, share)
            for row, images in enumerate(matrix)
            for column, number in enumerate(images)
            if (row == column) is hits and (share := number / max(1, sum(images)))
        ]
        if dots:
            xs, ys, shares = zip(*dots, strict=True)
            areas = [max(1.0, (0.98 * cell_points) ** 2 * share) for share in shares]
            axes.scatter(xs, ys, areas, color=SERIES[0 if hits else 1], linewidth=0, zorder=3)
    labels = [shortened(name) for name in names]
    axes.set_xticks(range(count), labels, rotation=90, parse_math=False)
    axes.set_yticks(range(count), labels, parse_math=False)
    axes.xaxis.tick_top()
    axes.set_xlim(-0.6, count - 0.4)
    axes.set_ylim(count - 0.4, -0.6)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("predicted", color=MUTED, fontsize=FONT_SIZE - 1)
    correct = sum(row[label] for label, row in enumerate(matrix))
    total = sum(map(sum, matrix))
    alt = f"{caption}. {correct} of {total} images are recognised."
    return Picture(caption, to_svg(axes, "confusion", alt))
