"""Folders with a table of their images: metadata.csv or metadata.jsonl, as `datasets` has them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from fedsplit.data.class_folders import utf8
from fedsplit.errors import DataError

FILE_NAME = "file_name"


def read_table(table: Path) -> datasets.Dataset:
    """Return the images that a table names, with its other columns.

    Parameters
    ----------
    table : Path
        A CSV file with a header or a file of JSON objects. Its column ``file_name`` has paths
        relative to its folder.

    Raises
    ------
    DataError
        If it cannot be read, lacks that column or values, or names files that do not exist.
    """
    rows = _rows(table)
    names = list(rows[0]) if rows else []
    if FILE_NAME not in names:
        raise DataError(
            f"'{table}' has no column '{FILE_NAME}'. Its columns: {', '.join(names) or 'none'}. "
            "Name the file of each image in that column, relative to this folder."
        )
    uneven = next((number for number, row in enumerate(rows) if list(row) != names), None)
    if uneven is not None:
        raise DataError(f"Row {uneven} of '{table}' has other columns than row 0. Complete it.")
    files = [table.parent / str(row[FILE_NAME]) for row in rows]
    missing = [str(file.name) for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} images that '{table}' names do not exist; the first "
            f"is '{missing[0]}'. Add them, or remove their rows."
        )
    columns = {name: [row[name] for row in rows] for name in names if name != FILE_NAME}
    images = [utf8(str(file.resolve())) for file in files]
    try:
        dataset = datasets.Dataset.from_dict({"image": images, **columns})
    except Exception as error:  # values of one column that have no common type
        raise DataError(f"'{table}' cannot be made into columns: {error}.") from error
    return dataset.cast_column("image", datasets.Image())


def _rows(table: Path) -> Sequence[Mapping[str, Any]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix == ".jsonl":
                return [json.loads(line) for line in file if line.strip()]
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"'{table}' cannot be read: {error}. Repair it.") from error
