"""Read the shards.json of a run, which somebody else may have made."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fedsplit.errors import DataError
from fedsplit.results.files import read_object

LARGEST_COUNT = 10**12
"""More images than a client can have; sums of such numbers still fit in 64 bits."""
LONGEST_NAME = 1000
_KEYS = ("class_names", "class_counts")


class Shards(NamedTuple):
    """The training images of all clients.

    Attributes
    ----------
    class_names : list[str]
        [classes].
    class_counts : list[list[int]]
        Images of each client and class, [K, classes].
    """

    class_names: list[str]
    class_counts: list[list[int]]


def read_shards(path: Path) -> Shards:
    """Return what a run has written into ``shards.json``.

    Class names are only shown, and never the names of files, so they may have any characters.

    Raises
    ------
    DataError
        If it cannot be read, or a key or value in it is none that a run writes.
    """
    try:
        found = read_object(path)
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' cannot be read: {error}. {_REMEDY}") from None
    if unknown := [key for key in found if key not in _KEYS]:
        raise _wrong(path, unknown[0], found[unknown[0]], "absent: it is no key of this file")
    if missing := [key for key in _KEYS if key not in found]:
        raise _wrong(path, missing[0], None, "there")
    names, counts = found["class_names"], found["class_counts"]
    if not isinstance(names, list) or not names:
        raise _wrong(path, "class_names", names, "a list of at least one name")
    for number, name in enumerate(names):
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            wanted = f"a text of at most {LONGEST_NAME} characters"
            raise _wrong(path, f"class_names[{number}]", name, wanted)
    if not isinstance(counts, list) or not counts:
        raise _wrong(path, "class_counts", counts, "a list with a row for each client")
    for client, row in enumerate(counts):
        _check_row(path, client, row, len(names))
    return Shards(names, counts)


def _check_row(path: Path, client: int, row: object, num_classes: int) -> None:
    key = f"class_counts[{client}]"
    if not isinstance(row, list) or len(row) != num_classes:
        length = f" of length {len(row)}" if isinstance(row, list) else ""
        wanted = f"a list of {num_classes} numbers, one for each of class_names"
        raise _wrong(path, key, row, wanted, length)
    for label, count in enumerate(row):
        if type(count) is not int or not 0 <= count <= LARGEST_COUNT:
            wanted = f"a whole number from 0 to {LARGEST_COUNT}"
            raise _wrong(path, f"{key}[{label}]", count, wanted)


_REMEDY = "Take the file that the run has written, or train again."


def _wrong(path: Path, key: str, value: object, wanted: str, more: str = "") -> DataError:
    shown = f"{value!r:.200}{more}"
    return DataError(f"In '{path}', {key:.200} is {shown}; it must be {wanted}. {_REMEDY}")
