"""Local folders: image folders and data sets saved by `datasets`' `save_to_disk`.

Nothing is copied or cached: read-only folders and homes work, and many processes can open the same
folder at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets

from fedsplit.errors import DataError

SPLIT_NAMES = ("train", "test", "validation", "valid", "val")
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
)


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


def read_folder(folder: Path) -> dict[str, datasets.Dataset]:
    """Return the splits in a local folder, by name.

    Parameters
    ----------
    folder : Path
        A data set or `DatasetDict` saved by ``save_to_disk``; or class folders of image files,
        either directly (split ``train``) or below ``train``, ``test``, ``validation``.
        Hidden entries are ignored, and so are those that macOS adds to archives.

    Raises
    ------
    DataError
        If the folder is neither, cannot be read, or has a name in it that is not UTF-8.
    """
    if _is_saved(folder):
        return _saved(folder)
    files = {split: _class_files(path) for split, path in _split_folders(folder).items()}
    if not files["train"]:
        raise DataError(
            f"The folder '{folder}' holds no data set. It must have a sub-folder of image files "
            "for each class (directly, or below train/ and test/), or be a data set saved with "
            "save_to_disk."
        )
    class_names = sorted({name for classes in files.values() for name in classes})
    return {split: _image_files(classes, class_names) for split, classes in files.items()}


def folder_state(folder: Path) -> FolderState:
    """Return the state of a folder that `read_folder` reads, without reading its images.

    A saved data set is judged by its JSON files, which `save_to_disk` always writes anew; class
    folders are judged by every file in them.
    """
    if _is_saved(folder):
        entries = [*folder.glob("*.json"), *folder.glob("*/state.json")]
    else:
        splits = list(_split_folders(folder).values())
        classes = [path for split in splits for path in _class_folders(split)]
        inside = (path for class_folder in classes for path in _inside(class_folder))
        entries = [*splits, *classes, *inside]
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


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _saved(folder: Path) -> dict[str, datasets.Dataset]:
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(
            f"The saved data set '{folder}' cannot be read ({type(error).__name__}: {error}). "
            "Save it again with save_to_disk."
        ) from error
    if isinstance(loaded, datasets.Dataset):
        return {"train": loaded}
    return {str(split): dataset for split, dataset in loaded.items()}


def _split_folders(folder: Path) -> dict[str, Path]:
    splits = {name: folder / name for name in SPLIT_NAMES if (folder / name).is_dir()}
    return splits if "train" in splits else {"train": folder}


def _class_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not _is_hidden(p.name))


def _class_files(folder: Path) -> dict[str, list[str]]:
    """Return the image files of every class, sorted: the order is the same on every machine."""
    classes: dict[str, list[str]] = {}
    for class_folder in _class_folders(folder):
        entries = (path for path in _inside(class_folder) if not path.is_dir())
        files = sorted(path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES)
        if files:
            classes[_utf8(class_folder.name)] = [_utf8(str(path.resolve())) for path in files]
    return classes


def _inside(folder: Path) -> Iterator[Path]:
    """Yield everything in a folder, at any depth, that is not hidden."""
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        yield from (Path(root, name) for name in (*folders, *files) if not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _utf8(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"The name of the file or folder {name!a} is not UTF-8, so a data set cannot store it. "
            "Rename it."
        ) from None
    return name


def _image_files(classes: dict[str, list[str]], class_names: list[str]) -> datasets.Dataset:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=class_names)}
    )
    columns: dict[str, list[object]] = {"image": [], "label": []}
    for name, files in classes.items():
        columns["image"] += files
        columns["label"] += [class_names.index(name)] * len(files)
    return datasets.Dataset.from_dict(columns, features=features)
