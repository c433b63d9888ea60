"""Folders with a table of their images: metadata.csv or metadata.jsonl, as `datasets` has them."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from fedsplit import bounded_json
from fedsplit.data.class_folders import IMAGE_SUFFIXES, SPLITS, inside, split_of, utf8
from fedsplit.data.image_file import is_address
from fedsplit.data.image_paths import AllowedFolders, path_fault
from fedsplit.data.regular_files import special_kind
from fedsplit.errors import DataError
from fedsplit.names import some

_logger = logging.getLogger(__name__)
FILE_NAME = "file_name"
_IMAGE, _SPLIT = "image", "split"


def read_table(table: Path, allowed: AllowedFolders | None = None) -> datasets.Dataset:
    """Return the images that a table names, with its other columns.

    A warning counts the images beside it that it does not name.

    Parameters
    ----------
    table : Path
        A CSV file with a header or a file of JSON objects. Its column ``file_name`` has paths
        relative to its folder.
    allowed : AllowedFolders | None
        Where these files must be; None = in the table's own folder.

    Raises
    ------
    DataError
        If it cannot be read, lacks that column or values, names an image twice, or names files that
        do not exist or must not be read.
    """
    allowed = allowed or AllowedFolders(str(table.parent))
    return _images(table, _rows(table, allowed), allowed)


def _images(
    table: Path, rows: Sequence[Mapping[str, Any]], allowed: AllowedFolders
) -> datasets.Dataset:
    names = list(rows[0]) if rows else []
    if FILE_NAME not in names:
        raise DataError(
            f"'{table}' has no column '{FILE_NAME}'. Its columns: {', '.join(names) or 'none'}. "
            "Name the file of each image in that column, relative to this folder."
        )
    uneven = next((number for number, row in enumerate(rows) if list(row) != names), None)
    if uneven is not None:
        raise DataError(f"Row {uneven} of '{table}' has other columns than row 0. Complete it.")
    files = _files(table, rows, allowed)
    if _IMAGE in names:  # it would take the place of the files that were checked
        raise DataError(
            f"'{table}' has a column '{_IMAGE}' beside '{FILE_NAME}'. That is what the images of "
            f"'{FILE_NAME}' are called: rename or remove the other one."
        )
    columns = {name: [row[name] for row in rows] for name in names if name != FILE_NAME}
    images = [utf8(str(file)) for file in files]
    try:
        dataset = datasets.Dataset.from_dict({_IMAGE: images, **columns})
    except Exception as error:  # values of one column that have no common type
        raise DataError(f"'{table}' cannot be made into columns: {error}.") from error
    return dataset.cast_column(_IMAGE, datasets.Image())


def read_splits(table: Path, allowed: AllowedFolders | None = None) -> dict[str, datasets.Dataset]:
    """Return the splits of a table that has the images of all of them.

    A row's split is the value of its column ``split``, or the first folder of its file, as in
    ``train/1.png``. All rows are of the split ``train`` if neither is called like a split, or only
    one folder is: a train may stand among buses.

    Raises
    ------
    DataError
        As `read_table`, and if only some rows have a split.
    """
    allowed = allowed or AllowedFolders(str(table.parent))
    rows = _rows(table, allowed)
    dataset = _images(table, rows, allowed)
    by_column = [split_of(str(row.get(_SPLIT) or "")) for row in rows]
    _check_split_column(table, rows, by_column)
    splits = by_column if all(by_column) else [_folder_split(str(row[FILE_NAME])) for row in rows]
    named = {split for split in splits if split}
    without = [str(row[FILE_NAME]) for row, split in zip(rows, splits, strict=True) if not split]
    if without and len(named) < 2:
        return {"train": dataset}
    if without:
        raise DataError(
            f"Some images of '{table}' are in folders called like splits, and others are not: "
            f"{some(without)}. Move these, remove their rows, or give the table a column 'split'."
        )
    return {
        name: dataset.select([row for row, split in enumerate(splits) if split == name])
        for name in SPLITS
        if name in named
    }


def _check_split_column(
    table: Path, rows: Sequence[Mapping[str, Any]], splits: Sequence[str | None]
) -> None:
    """Refuse a column of splits with a value that is none: its test images would be trained on."""
    odd = next((number for number, split in enumerate(splits) if not split), None)
    if odd is not None and any(splits):
        raise DataError(
            f"Row {odd} of '{table}' has {rows[odd].get(_SPLIT)!r:.200} in the column '{_SPLIT}', "
            f"and other rows name a split. Write one of {', '.join(SPLITS)} in every row."
        )


def _folder_split(file_name: str) -> str | None:
    folder, *rest = Path(file_name).parts or ("",)
    return split_of(folder) if rest else None


def _files(table: Path, rows: Sequence[Mapping[str, Any]], allowed: AllowedFolders) -> list[Path]:
    """Return the file of each row, without links."""
    folder = table.parent.absolute()
    paths = [os.path.join(folder, str(row[FILE_NAME])) for row in rows]
    for number, (row, path) in enumerate(zip(rows, paths, strict=True)):
        name = str(row[FILE_NAME])
        known = name if is_address(name) else path
        if fault := path_fault(known, allowed) or _kind_fault(known):
            raise DataError(f"Row {number} of '{table}' names {name!r:.200}: {fault}")
    missing = [os.path.basename(path) for path in paths if not os.path.isfile(path)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(paths)} images that '{table}' names do not exist; the first "
            f"is {missing[0]!r:.200}. Add them, or remove their rows."
        )
    files = [Path(allowed.real(path) or path) for path in paths]
    first: dict[Path, int] = {}
    for number, file in enumerate(files):
        if (earlier := first.setdefault(file, number)) != number:
            raise DataError(
                f"The rows {earlier} and {number} of '{table}' name the same image, '{file.name}'. "
                "An image has one row and one class; it could be used to train and to test. "
                "Remove one of the rows."
            )
    there = (p for p in inside(table.parent) if p.suffix.lower() in IMAGE_SUFFIXES)
    unnamed = [str(p.relative_to(table.parent)) for p in there if p.resolve() not in first]
    if unnamed:
        _logger.warning(
            "%d images beside '%s' have no row in it, and are left out: %s.",
            *(len(unnamed), table, some(sorted(unnamed))),
        )
    return files


def _kind_fault(path: str) -> str | None:
    kind = special_kind(path)
    return kind and f"that is {kind}, not a file. Remove the row, or put an image there."


def _rows(table: Path, allowed: AllowedFolders) -> Sequence[Mapping[str, Any]]:
    if fault := path_fault(str(table.absolute()), allowed):
        raise DataError(f"The table '{table}' cannot be read: {fault}")
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix == ".jsonl":
                rows = [bounded_json.loads(line) for line in file if line.strip()]
            else:
                reader = csv.DictReader(file)
                _check_header(reader.fieldnames or ())
                rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"'{table}' cannot be read: {error}. Repair it.") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(
                f"Row {number} of '{table}' is {row!r:.200}, no JSON object. Write one object in "
                "each line, with the key 'file_name'."
            )
    return rows


def _check_header(names: Sequence[str]) -> None:
    """Refuse two columns of one name: `csv` keeps the last of them without a word.

    Spreadsheets leave several empty columns without a name.
    """
    twice = next((name for n, name in enumerate(names) if name and name in names[:n]), None)
    if twice is not None:
        raise ValueError(f"it has the column {twice!r:.200} twice")
