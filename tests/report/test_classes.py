from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedsplit import Config
from fedsplit.report.classes import class_sections
from fedsplit.report.gather import RunRecord
from fedsplit.report.markdown import to_markdown
from fedsplit.report.page import Header, Section


def section_of(names: list[str], drawn: bool = True, **summary: Any) -> Section:  # noqa: ANN401
    record = RunRecord(Path("run"), Config(), [], summary, [], names)
    (section,) = class_sections(record, drawn=drawn)
    return section


def rows_of(section: Section) -> list[list[str]]:
    return [[cell.text for cell in row] for row in section.tables[0].rows]


MATRIX = [[8, 2, 0], [0, 0, 0], [3, 4, 1]]


def test_each_class_has_its_accuracy_its_images_and_its_commonest_mistake() -> None:
    section = section_of(
        ["a", "<b>", "c"], class_accuracy=[0.8, None, 0.125], confusion_matrix=MATRIX
    )
    assert rows_of(section) == [
        ["a", "0.800", "10", "<b> (2)"],
        ["<b>", "-", "0", "-"],
        ["c", "0.125", "8", "<b> (4)"],
    ]
    (picture,) = section.pictures
    assert "9 of 18 images are recognised" in picture.svg
    header = Header("lead", "command")
    assert "| c | 0.125 | 8 |" in to_markdown("run", header, [section])


def test_without_a_matrix_there_are_accuracies_alone() -> None:
    names = [f"class {n}" for n in range(101)]
    section = section_of(names, class_accuracy=[0.5] * 101, confusion_matrix=None)
    assert rows_of(section)[100] == ["class 100", "0.500"]
    assert not section.pictures
    large = [[1] * 31 for _ in range(31)]
    assert not section_of(names[:31], class_accuracy=[1 / 31] * 31, confusion_matrix=large).pictures


@pytest.mark.parametrize("names", [["a", "b"], []])
def test_a_run_whose_classes_were_not_scored_has_no_section(names: list[str]) -> None:
    summary = {"class_accuracy": None, "confusion_matrix": None}
    record = RunRecord(Path("run"), Config(), [], summary, [], names)
    assert class_sections(record, drawn=True) == []
