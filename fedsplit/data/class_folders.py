"""Folders of images: their splits, their class folders, and the files in them that are images."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedsplit.data.image_file import is_readable
from fedsplit.data.image_paths import AllowedFolders, is_inside, path_fault
from fedsplit.data.regular_files import special_kind
from fedsplit.errors import DataError
from fedsplit.names import some

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "trainset", "trainingset", "traindata"),
    "test": ("test", "testing", "testset", "testdata", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev", "validationset", "valset", "devset"),
}
"""Split -> what its folder may be called, in small letters and without anything else."""
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
)
_TABLES = ("metadata.csv", "metadata.jsonl")
_CLUTTER = ("thumbs.db", "desktop.ini")
_SYSTEM = ("/proc", "/sys")
_FIRST_LINE = 2**16
_logger = logging.getLogger(__name__)


def split_folders(folder: Path) -> dict[str, Path]:
    """Return a folder's splits: those below it, or the folder itself as ``train``.

    Folders called like splits are splits if the one for training holds folders or a table, or if
    all folders are such; otherwise they are classes with unusual names.

    Raises
    ------
    DataError
        If two folders are the same split.
    """
    below = sub_folders(folder)
    found: dict[str, list[Path]] = {}
    for path in below:
        if split := split_of(path.name):
            found.setdefault(split, []).append(path)
    if "train" in found:
        is_split = any(map(_holds_data, found["train"]))
    else:
        is_split = bool(below) and all(split_of(p.name) and _holds_data(p) for p in below)
    if not is_split:
        return {"train": folder}
    for split, (first, *others) in found.items():
        if others:
            raise DataError(
                f"The folders '{first.name}' and '{others[0].name}' in '{folder}' are both named "
                f"like the split '{split}'. Rename or remove one."
            )
    return {split: paths[0] for split, paths in found.items()}


def class_files(folder: Path, allowed: AllowedFolders) -> dict[str, list[str]]:
    """Return the image files of every class, sorted: the order is the same on every machine.

    A file that is no image by its suffix is one if Pillow can read it. The others are named in a
    warning, and so are a folder without images and links to folders that lead out.

    Parameters
    ----------
    folder : Path
        Of the class folders.
    allowed : AllowedFolders
        Where links to files may lead.

    Raises
    ------
    DataError
        If the folder is one level or more too high, has a name in it that is not UTF-8, or has a
        pipe, a device or a link that leads out in place of an image.
    """
    _check_level(folder)
    classes: dict[str, list[str]] = {}
    left_out: list[Path] = []
    empty: list[str] = []
    nested: list[str] = []
    folders: list[Path] = []
    for class_folder in sub_folders(folder):
        files: list[Path] = []
        folders.append(class_folder)
        for path in sorted(inside(class_folder, folder)):
            if path.is_dir():
                folders.append(path)
                continue
            (files if is_image(path) else left_out).append(path)
        if files:
            classes[utf8(class_folder.name)] = [utf8(_real(path, allowed)) for path in files]
            if len({path.relative_to(class_folder).parts[0] for path in files}) > 1 and not any(
                path.parent == class_folder for path in files
            ):
                nested.append(class_folder.name)
        else:
            empty.append(class_folder.name)
    _tell_links(folder, folders, allowed)
    if left_out:
        _logger.warning(
            "%d files in '%s' are no images that can be read, and are left out: %s.",
            *(len(left_out), folder, some([str(path.relative_to(folder)) for path in left_out])),
        )
    if nested:
        _logger.warning(
            "Folders in '%s' that have their images in several folders are one class each: %s.",
            *(folder, some(sorted(nested))),
        )
    if empty and classes:
        _logger.warning(
            "Folders in '%s' without an image are no classes: %s.", folder, some(sorted(empty))
        )
    return classes


def sub_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, sorted."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not _is_hidden(p.name))


def inside(folder: Path, within: Path | None = None) -> Iterator[Path]:
    """Yield everything in a folder, at any depth, that is not hidden. Links are followed, once.

    Parameters
    ----------
    folder : Path
        The folder.
    within : Path | None
        The whole data set's, if it is another one.

    Raises
    ------
    DataError
        If a link leads to a folder that holds the data set, or to the system's own: reading these
        would not end.
    """
    whole = os.path.realpath(within or folder)
    seen = {_followed(folder, whole), whole}
    for root, folders, files in os.walk(folder, followlinks=True):
        real = {
            name: _followed(Path(root, name), whole) for name in folders if not _is_hidden(name)
        }
        yield from (Path(root, name) for name in (*real, *files) if not _is_hidden(name))
        folders[:] = [name for name in real if real[name] not in seen]
        seen |= {real[name] for name in folders}


def _followed(folder: Path, whole: str) -> str:
    """Return where a folder is, without links."""
    real = os.path.realpath(folder)
    if is_inside(real, whole):
        return real
    if is_inside(whole, real) or any(is_inside(real, system) for system in _SYSTEM):
        raise DataError(
            f"The link '{folder}' leads to '{real}', which holds the data set itself or is a "
            "folder of the system. Remove the link."
        )
    return real


def _tell_links(folder: Path, folders: Sequence[Path], allowed: AllowedFolders) -> None:
    """Warn of folders in a data set that are links to others outside it."""
    links = {path: os.path.realpath(path) for path in folders if path.is_symlink()}
    out = sorted(f"{path} -> {real}" for path, real in links.items() if not allowed.has(real))
    if out:
        _logger.warning(
            "%d folders in '%s' are links that lead out of it, and the images there are used: %s.",
            *(len(out), folder, some(out)),
        )


def _real(path: Path, allowed: AllowedFolders) -> str:
    """Return the path of an image without links, if it may be read."""
    if kind := special_kind(path):
        raise DataError(f"'{path}' is {kind}, not an image file. Remove it.")
    real = allowed.resolved(str(path.absolute()))
    # A folder may be a link that leads out, and then so may the files beside this one.
    beside = not path.is_symlink() or is_inside(real, os.path.realpath(path.parent))
    if not beside and (fault := path_fault(str(path.absolute()), allowed)):
        raise DataError(f"The link '{path}' leads to '{real}': {fault}")
    return real


def is_image(path: Path) -> bool:
    """Return whether a file is an image, by its suffix or by its first bytes."""
    return path.suffix.lower() in IMAGE_SUFFIXES or is_readable(path)


def utf8(name: str) -> str:
    """Return a name that a data set can store.

    Raises
    ------
    DataError
        If it is not UTF-8.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"The name of the file or folder {name!a} is not UTF-8, so a data set cannot store it. "
            "Rename it."
        ) from None
    return name


def split_of(name: str) -> str | None:
    """Return the split that something with this name is, if it is called like one."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    return next((split for split, names in SPLITS.items() if plain in names), None)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX" or name.lower() in _CLUTTER


def _holds_data(folder: Path) -> bool:
    """Return whether a folder can be a split: it holds class folders, or a table of its images."""
    return bool(sub_folders(folder)) or table_of(folder) is not None


def table_of(folder: Path) -> Path | None:
    """Return the file that has a row for each image in a folder, or None.

    Beside class folders, a file of that name is such a table only if it names files.
    """
    table = next((p for n in _TABLES if (p := folder / n).is_file()), None)
    if table is not None and sub_folders(folder):
        with table.open(encoding="utf-8", errors="replace") as file:
            return table if "file_name" in file.readline(_FIRST_LINE) else None
    return table


def _check_level(folder: Path) -> None:
    """Refuse a folder whose class folders hold only folders: it is probably too high."""
    classes = sub_folders(folder)
    if not classes or any(_images_in(path) for path in classes):
        return
    inner = [[path.name for path in sub_folders(each)] for each in classes]
    if not any(inner):
        return
    # Every class may have its images in one folder more, such as images/.
    if len(classes) > 1 and all(names == inner[0] and len(names) == 1 for names in inner):
        return
    likely = _likely(folder)
    hint = f" The data set is probably in '{likely}': set data.name to it." if likely else ""
    raise DataError(
        f"The folders in '{folder}' ({some([path.name for path in classes])}) hold only folders, "
        f"so they do not look like classes.{hint} Otherwise put each class's images directly into "
        "the folder of its class."
    )


def _images_in(folder: Path) -> bool:
    files = (path for path in folder.iterdir() if path.is_file() and not _is_hidden(path.name))
    return any(is_image(path) for path in files)


def _likely(folder: Path) -> Path | None:
    """Return the first folder below whose own folders hold images, or are splits."""
    level = sub_folders(folder)
    seen: set[str] = set()
    while level := [path for path in level if os.path.realpath(path) not in seen]:
        seen |= {os.path.realpath(path) for path in level}  # links may lead back
        for path in level:
            if "train" in split_folders(path) and split_folders(path)["train"] != path:
                return path
            if any(_images_in(each) for each in sub_folders(path)):
                return path
        level = [below for path in level for below in sub_folders(path)]
    return None
