"""Which row of which split an image is, and which images cannot be decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import datasets
import numpy as np

from fedsplit.data.decode import UndecodableError, decode
from fedsplit.data.image_file import ImageBounds
from fedsplit.errors import DataError
from fedsplit.names import some
from fedsplit.threads import available_cores

_logger = logging.getLogger(__name__)
_PREFIX = "fedsplit: row of "
_AT_ONCE = 256


def numbered(dataset: datasets.Dataset, split: str) -> datasets.Dataset:
    """Return a split with a column of its row numbers, which clients' shares of it keep.

    A data set that is itself a selection of rows is returned as it is: `datasets` would copy all of
    its images to add a column.

    Numbers with which it was saved, as a client's share of another data set, are left out.
    """
    dataset = dataset.remove_columns(numbers_of(dataset))
    if getattr(dataset, "_indices", None) is not None:
        return dataset
    return dataset.add_column(_PREFIX + split, np.arange(len(dataset)))


def place_of(dataset: datasets.Dataset, column: str, row: int) -> str:
    """Say which image of the data set a row of a share is."""
    for name in numbers_of(dataset):
        # Without the image, which could not be decoded.
        number = dataset.select_columns([name]).with_format(None)[row][name]
        return f"row {number} of the split '{name.removeprefix(_PREFIX)}', column '{column}'"
    return f"row {row} of a client's images, column '{column}'"


def numbers_of(dataset: datasets.Dataset) -> list[str]:
    """Return the names of columns that `numbered` has added."""
    return [name for name in dataset.column_names if name.startswith(_PREFIX)]


def own_columns(dataset: datasets.Dataset) -> list[str]:
    """Return the names of all other columns."""
    return [name for name in dataset.column_names if not name.startswith(_PREFIX)]


def readable(
    dataset: datasets.Dataset, column: str, name: str, bounds: ImageBounds
) -> datasets.Dataset:
    """Return the rows whose images can be decoded; a warning counts and names the others.

    Raises
    ------
    DataError
        If there are rows, and none of them can.
    """
    faults = {row: fault for row, fault in enumerate(_faults(dataset, column, bounds)) if fault}
    if not faults:
        return dataset
    if len(faults) == len(dataset):
        raise DataError(f"No image of '{name}' can be decoded. {next(iter(faults.values()))}.")
    _logger.warning(
        "%d of %d images of '%s' are left out (data.on-error = 'skip'): %s.",
        *(len(faults), len(dataset), name, some(list(faults.values()))),
    )
    return dataset.select([row for row in range(len(dataset)) if row not in faults])


def _faults(dataset: datasets.Dataset, column: str, bounds: ImageBounds) -> Iterator[str]:
    """Yield why an image cannot be decoded, or an empty text, for each row."""
    rows = dataset.select_columns([column]).with_format("arrow")

    def fault_of(row: int, file: dict[str, object] | None) -> str:
        try:
            place = partial(place_of, dataset, column, row)
            decode(file, place=place, channels=3, bounds=bounds)
        except UndecodableError as error:
            return error.fault
        return ""

    with ThreadPoolExecutor(available_cores(), thread_name_prefix="fedsplit-decode") as threads:
        for start in range(0, len(dataset), _AT_ONCE):
            chosen = range(start, min(start + _AT_ONCE, len(dataset)))
            files = rows[chosen].column(column).to_pylist()
            yield from threads.map(fault_of, chosen, files)
