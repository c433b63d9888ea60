"""The notebooks run, with small settings, and are kept with their outputs."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from notebooks.execute import FOLDER, PARAMETERS, execute

SMALL: dict[str, dict[str, object]] = {
    "quickstart.ipynb": {"rounds": 2, "images": 500},
    "split_vs_full.ipynb": {"rounds": 1, "images": 500, "strategies": ["full", "sflv1", "sflv2"]},
    "choosing_a_cut.ipynb": {"model": "vit-nano", "images": 80},
    "bring_your_own_model.ipynb": {"rounds": 1, "images": 500},
}


def test_every_notebook_is_executed_here() -> None:
    assert {path.name for path in FOLDER.glob("*.ipynb")} == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name: str, tmp_path: Path) -> None:
    """A cell that fails raises. Break it: misspell a key of a table in one of them."""
    notebook = execute(FOLDER / name, tmp_path, SMALL[name])
    assert str(tmp_path) not in nbformat.writes(notebook)
    sources = [cell.source for cell in nbformat.read(FOLDER / name, as_version=4).cells]
    assert [cell.source for cell in notebook.cells] == sources


@pytest.mark.parametrize("name", SMALL)
def test_it_is_kept_with_its_outputs(name: str) -> None:
    """Break it: save one of them after a change, without `python -m notebooks.execute`."""
    notebook = nbformat.read(FOLDER / name, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [PARAMETERS in cell.metadata.get("tags", ()) for cell in cells].count(True) == 1
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) / 2
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    text = nbformat.writes(notebook)
    assert re.findall(r"(?:/tmp|/root|/home|/work|/Users)/\w+", text) == []
