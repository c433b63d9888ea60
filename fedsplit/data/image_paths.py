"""Which files a data set may name: none at an address, and none outside its folder."""

from __future__ import annotations

import os

import datasets
import numpy as np
import pyarrow.compute as pc

from fedsplit.data.image_file import is_address
from fedsplit.errors import DataError


class AllowedFolders:
    """The folders in which the files that a data set names must be.

    Parameters
    ----------
    *folders : str
        At least one. Relative paths begin at the first.
    follow_links : bool
        Look at a path as it is written, not at where links in it lead.
    """

    def __init__(self, *folders: str, follow_links: bool = False) -> None:
        self._folders = [os.path.realpath(folder) for folder in folders]
        self._as_given = [os.path.abspath(folder) for folder in folders]
        self._follow_links = follow_links
        self._known: dict[str, str] = {}

    @property
    def first(self) -> str:
        """The folder in which relative paths begin, without links."""
        return self._folders[0]

    def real(self, path: str) -> str | None:
        """Return where a path leads, without links; None if that is outside the folders."""
        whole = os.path.join(self.first, path)
        real = self.resolved(whole)
        if self.has(real) or (self._follow_links and self._has_written(whole)):
            return real
        return None

    def has(self, real: str) -> bool:
        """Return whether a path without links is in one of the folders."""
        return any(is_inside(real, folder) for folder in self._folders)

    def resolved(self, path: str) -> str:
        """Return an absolute path without links; a folder is looked up once for all its files."""
        folder, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir) or os.path.islink(path):
            return os.path.realpath(path)
        if folder not in self._known:
            self._known[folder] = os.path.realpath(folder)
        return os.path.join(self._known[folder], name)

    def _has_written(self, path: str) -> bool:
        plain = os.path.normpath(path)
        return any(is_inside(plain, folder) for folder in (*self._folders, *self._as_given))


def is_inside(path: str, folder: str) -> bool:
    """Return whether a path is a folder or in it; both absolute, without links."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def check_images(
    dataset: datasets.Dataset, column: str, name: str, allowed: AllowedFolders | None
) -> None:
    """Refuse rows without an image, and those whose image must not be read. No image is read.

    Parameters
    ----------
    dataset : datasets.Dataset
        With `column` of the feature `Image`.
    column, name : str
        That column, and the data set's name for the message.
    allowed : AllowedFolders | None
        Where the files must be; None = anywhere: the rows are those of the user's own code, or of
        files that fedsplit itself has found in a folder.

    Raises
    ------
    DataError
        If a row has neither bytes nor a path, or its path is an address or leads out.
    """
    files = dataset.select_columns([column]).with_format("arrow")[:][column]
    no_bytes, no_path = (
        pc.is_null(pc.struct_field(files, part)).to_numpy() for part in ("bytes", "path")
    )
    empty = np.flatnonzero(no_bytes & no_path)
    if len(empty):
        raise DataError(
            f"{len(empty)} rows of the data set '{name}' have no image (a null in '{column}'; the "
            f"first is row {empty[0]}). Remove these rows, or name another column with "
            "data.image-column."
        )
    named = np.flatnonzero(no_bytes)
    paths = pc.struct_field(files, "path").take(named).to_pylist() if len(named) else []
    for row, path in zip(named.tolist(), paths, strict=True):
        if fault := path_fault(path, allowed):
            raise DataError(
                f"Row {row} of the data set '{name}' names {path!r:.200} in the column '{column}': "
                f"{fault} Or save the data set with the images' bytes in it, as save_to_disk does."
            )


def path_fault(path: str, allowed: AllowedFolders | None) -> str | None:
    """Return why a data set must not name a path, with a remedy; None if it may."""
    if is_address(path):
        return "fedsplit fetches nothing that a data set names. Download it first."
    if allowed is None:
        return None
    if "\0" in path:
        return "no file has a NUL in its name. Name a file in the data set's folder."
    if allowed.real(path) is None:
        return (
            f"that leads out of the data set's folder, '{allowed.first}'. Copy the file into it. "
            "If a link leads there, and it is your own, set data.follow-links = true."
        )
    return None
