"""Data sets saved by `datasets`' `save_to_disk`, which may come from strangers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from fedsplit import bounded_json
from fedsplit.data.arrow_files import check_arrow_files
from fedsplit.data.image_paths import AllowedFolders
from fedsplit.data.regular_files import special_kind
from fedsplit.errors import DataError

_SPLITS_FILE, _STATE_FILE, _INFO_FILE = "dataset_dict.json", "state.json", "dataset_info.json"
_STATE_KEYS = ("_fingerprint", "_format_columns", "_format_kwargs", "_format_type")
_LARGEST_JSON = 64 * 2**20


def is_saved(folder: Path) -> bool:
    """Return whether a folder holds a data set saved with ``save_to_disk``."""
    return (folder / _SPLITS_FILE).is_file() or (folder / _STATE_FILE).is_file()


def read_saved(folder: Path, *, follow_links: bool = False) -> dict[str, datasets.Dataset]:
    """Return the splits of a data set or a `DatasetDict` saved by ``save_to_disk``.

    Raises
    ------
    DataError
        If a file is missing, broken or outside the folder.
    """
    allowed = AllowedFolders(str(folder), follow_links=follow_links)
    parts = {"train": folder}
    if (folder / _SPLITS_FILE).is_file():
        parts = {name: folder / name for name in _split_names(folder / _SPLITS_FILE, allowed)}
    files = [file for part in parts.values() for file in _arrow_files(part, allowed)]
    check_arrow_files(files, str(folder))
    try:
        return {name: datasets.load_from_disk(str(part)) for name, part in parts.items()}
    except Exception as error:  # of `datasets` and of pyarrow: many kinds
        raise DataError(
            f"The saved data set '{folder}' cannot be read ({type(error).__name__}: {error}). "
            "Save it again with save_to_disk."
        ) from error


def _split_names(path: Path, allowed: AllowedFolders) -> list[str]:
    names = _object(path, allowed).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong(path, "splits", names, "a list of texts")
    for name in names:
        if not _is_plain(name):
            raise _wrong(path, "splits", name, "a name without a folder")
    return names


def _arrow_files(folder: Path, allowed: AllowedFolders) -> list[Path]:
    """Return the data files of one split."""
    _object(folder / _INFO_FILE, allowed)
    path = folder / _STATE_FILE
    state = _object(path, allowed)
    if missing := [key for key in _STATE_KEYS if key not in state]:
        raise _wrong(path, missing[0], None, "there")
    entries = state.get("_data_files")
    if not isinstance(entries, list):
        raise _wrong(path, "_data_files", entries, "a list")
    found = []
    for entry in entries:
        name = entry.get("filename") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not _is_plain(name):
            raise _wrong(path, "_data_files", entry, "objects with the name of a file beside it")
        found.append(_regular(folder / name, allowed))
    if len(set(found)) < len(found):
        twice = Counter(found).most_common(1)[0][0].name
        raise _wrong(path, "_data_files", twice, "there once: its images would be there twice")
    return found


def _object(path: Path, allowed: AllowedFolders) -> dict[str, Any]:
    """Return the JSON object in a file."""
    file = _regular(path, allowed)
    try:
        if (size := file.stat().st_size) > _LARGEST_JSON:
            raise ValueError(f"it has {size} bytes")
        value = bounded_json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{path}' of a saved data set cannot be read ({error}). Save it again with "
            "save_to_disk."
        ) from None
    if not isinstance(value, dict):
        raise _wrong(path, "the whole file", value, "an object")
    return value


def _regular(path: Path, allowed: AllowedFolders) -> Path:
    """Return a file of the data set, if it is one in its folder."""
    if allowed.real(str(path.absolute())) is None:
        raise DataError(
            f"'{path}' of a saved data set is a link that leads out of the folder "
            f"'{allowed.first}'. Copy the file there. If the link is your own, set "
            "data.follow-links = true."
        )
    if kind := special_kind(path):
        raise DataError(
            f"'{path}' of a saved data set is {kind}, not a file. Save it again with save_to_disk."
        )
    if not path.is_file():
        raise DataError(
            f"The saved data set has no file '{path}'. Copy it completely, or save it again with "
            "save_to_disk."
        )
    return path


def _is_plain(name: str) -> bool:
    """Return whether a name is that of a file in a folder, and leads nowhere else."""
    return name not in ("", os.curdir, os.pardir) and not set(name) & {"/", "\\", "\0", ":"}


def _wrong(path: Path, key: str, value: object, wanted: str) -> DataError:
    return DataError(
        f"In '{path}' of a saved data set, {key} is {value!r:.200}; it must be {wanted}. Save it "
        "again with save_to_disk."
    )
