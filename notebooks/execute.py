"""Execute the notebooks beside this file, and store their outputs in them.

python -m notebooks.execute [NAME.ipynb ...]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
WITHOUT_BARS = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore:IProgress",
}
PARAMETERS = "parameters"
"""The tag of the first code cell of a notebook. Tests replace its values by smaller ones."""


def execute(
    path: Path, folder: Path, parameters: Mapping[str, object] | None = None
) -> NotebookNode:
    """Return a notebook with the outputs of all its cells.

    Parameters
    ----------
    path : Path
        The notebook. The file is not changed.
    folder : Path
        Where it runs and writes. In the outputs it appears as ``.``.
    parameters : Mapping[str, object] | None
        Values that replace those in the cell with the tag `PARAMETERS`.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails, with its traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    tagged = [cell for cell in notebook.cells if PARAMETERS in cell.metadata.get("tags", ())]
    given = "".join(f"\n{name} = {value!r}" for name, value in (parameters or {}).items())
    as_written = [cell.source for cell in tagged]
    for cell in tagged:
        cell.source += given
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=os.environ | WITHOUT_BARS)
    for cell, source in zip(tagged, as_written, strict=True):
        cell.source = source
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            _relative(output, str(folder))
    notebook.metadata.pop("language_info", None)  # it describes the machine that ran the notebook
    return notebook


def _relative(output: NotebookNode, folder: str) -> None:
    if "text" in output:
        output.text = output.text.replace(folder, ".")
    for kind, text in output.get("data", {}).items():
        if kind.startswith("text/"):
            output.data[kind] = text.replace(folder, ".")


def main() -> None:
    """Execute the named notebooks, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=sorted(p.name for p in FOLDER.glob("*.ipynb")))
    for name in parser.parse_args().names:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(FOLDER / name, Path(folder).resolve())
        nbformat.write(notebook, FOLDER / name)


if __name__ == "__main__":
    main()
