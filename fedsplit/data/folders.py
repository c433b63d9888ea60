"""Local folders: image folders and data sets saved by `datasets`' `save_to_disk`.

Nothing is copied or cached: read-only folders and homes work, and many processes can open the same
folder at once.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from fedsplit.data.class_folders import (
    class_files,
    inside,
    split_folders,
    sub_folders,
    table_of,
)
from fedsplit.data.image_paths import AllowedFolders
from fedsplit.data.saved import is_saved, read_saved
from fedsplit.data.tables import read_splits, read_table
from fedsplit.errors import DataError
from fedsplit.names import some

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderState:
    """What a folder held when it was looked at, without its images.

    Attributes
    ----------
    path : str
        Absolute.
    digest : str
        Of names, sizes and dates: it differs when a file was added, changed or removed.
    """

    path: str
    digest: str


def allowed_folders(folder: Path, *, follow_links: bool) -> AllowedFolders | None:
    """Return where the files must be that rows of `read_folder` name.

    None = anywhere: `read_folder` itself has found them, and refused those that lead out.
    """
    return AllowedFolders(str(folder), follow_links=follow_links) if is_saved(folder) else None


def read_folder(folder: Path, *, follow_links: bool = False) -> dict[str, datasets.Dataset]:
    """Return the splits in a local folder, by name.

    Parameters
    ----------
    folder : Path
        A data set or `DatasetDict` saved by ``save_to_disk``; or class folders of image files, or
        a metadata.csv with a row for each image, either directly or below ``train``, ``test``,
        ``validation``.
        Hidden entries are ignored, and so are those that macOS adds to archives.
    follow_links : bool
        Read files outside the folder to which links lead (``data.follow-links``).

    Raises
    ------
    DataError
        If the folder is neither, cannot be read, has a name in it that is not UTF-8, or names
        files outside it.
    """
    if is_saved(folder):
        return read_saved(folder, follow_links=follow_links)
    allowed = AllowedFolders(str(folder), follow_links=follow_links)
    if table := _table_of_all(folder):
        return read_splits(table, allowed)
    folders = split_folders(folder)
    tables = {split: table_of(path) for split, path in folders.items()}
    files = {
        split: class_files(path, allowed) for split, path in folders.items() if not tables[split]
    }
    _tell_repeated(folder, files)
    class_names = sorted({name for classes in files.values() for name in classes})
    found = {split: _image_files(classes, class_names) for split, classes in files.items()}
    found |= {split: read_table(table, allowed) for split, table in tables.items() if table}
    if not any(map(len, found.values())):
        raise DataError(
            f"The folder '{folder}' holds no data set{_what_is_there(folder)}. It must have a "
            "sub-folder of image files for each class (directly, or below train/ and test/), a "
            "metadata.csv with a row for each image, or a data set saved with save_to_disk."
        )
    without = [folders[split].name for split in found if not len(found[split])]
    if without:
        _logger.warning(
            "'%s' has no labelled images in %s, so they are not used: labels come from class "
            "folders or metadata.csv.",
            *(folder, " and ".join(f"{name}/" for name in without)),
        )
    unused = [path.name for path in sub_folders(folder) if path not in folders.values()]
    if unused and folder not in folders.values():
        _logger.warning("Folders beside the splits of '%s' are not used: %s.", folder, some(unused))
    return {split: dataset for split, dataset in found.items() if len(dataset)}


def _tell_repeated(folder: Path, files: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Warn of files that links put into several classes or splits, or into one of them twice."""
    number = Counter(
        file for classes in files.values() for each in classes.values() for file in each
    )
    if repeated := sorted(file for file, times in number.items() if times > 1):
        _logger.warning(
            "%d images of '%s' are there more than once, by links to files or folders in it: %s. "
            "Those in two classes are learnt as both, and training images may be tested.",
            *(len(repeated), folder, some(repeated)),
        )


def _table_of_all(folder: Path) -> Path | None:
    """Return the table in a folder, which has the images of all splits."""
    table = table_of(folder)
    inner = [
        t for path in split_folders(folder).values() if path != folder and (t := table_of(path))
    ]
    if table and inner:
        raise DataError(
            f"'{table}' and '{inner[0]}' both name images. Keep one table for all splits, or one "
            "in each split."
        )
    return table


def _what_is_there(folder: Path) -> str:
    files = sorted(str(p.relative_to(folder)) for p in inside(folder) if p.is_file())
    return f" that can be read. It has: {some(files)}" if files else ""


def folder_state(folder: Path) -> FolderState:
    """Return the state of a folder that `read_folder` reads, without reading its images.

    A saved data set is judged by its JSON files, which `save_to_disk` always writes anew; class
    folders are judged by every file in them.
    """
    if is_saved(folder):
        entries = [*folder.glob("*.json"), *folder.glob("*/state.json")]
    else:
        entries = [folder, *inside(folder)]
    digest = hashlib.sha256()
    for path in sorted(entries):
        digest.update(os.fsencode(f"{path}\0{_changes(path)}\0"))
    return FolderState(str(folder.resolve()), digest.hexdigest())


def _changes(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:  # a dangling link, or deleted just now
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _image_files(classes: dict[str, list[str]], class_names: list[str]) -> datasets.Dataset:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=class_names)}
    )
    columns: dict[str, list[object]] = {"image": [], "label": []}
    for name, files in classes.items():
        columns["image"] += files
        columns["label"] += [class_names.index(name)] * len(files)
    return datasets.Dataset.from_dict(columns, features=features)
