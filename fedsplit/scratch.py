"""Temporary folders that do not outlive their process for long, even if it is killed.

A process holds a lock in each of its folders while it lives. Making a folder also removes the
folders whose lock nobody holds.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from fedsplit.errors import cannot_write
from fedsplit.locks import FileLock

_PREFIX = "fedsplit-"
_UNLOCKED = f".{_PREFIX}"
_LOCK = ".lock"
_SECONDS_WITHOUT_LOCK = 24 * 3600.0
"""The age at which a folder without a lock is taken for one whose process died before it had it."""


class Scratch:
    """A new folder in the system's folder for temporary files.

    Parameters
    ----------
    purpose : str
        Part of its name.

    Attributes
    ----------
    path : Path
        The folder. It holds nothing but the hidden lock.

    Raises
    ------
    RunError
        If it cannot be made.
    """

    def __init__(self, purpose: str) -> None:
        _sweep(Path(tempfile.gettempdir()))
        parent = Path(tempfile.gettempdir())
        try:
            new = Path(tempfile.mkdtemp(prefix=f"{_UNLOCKED}{purpose}-"))
        except OSError as error:
            raise cannot_write(parent, error) from None
        try:
            # It gets a name that others sweep only when its lock is held.
            self._lock = FileLock.take(new / _LOCK)
            self.path = new.rename(new.with_name(new.name.removeprefix(".")))
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            raise cannot_write(parent, error) from None

    def remove(self) -> None:
        """Remove the folder with everything in it. Does nothing the second time."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock.release()
            self._lock = None


def _sweep(parent: Path) -> None:
    """Remove this user's folders whose process has ended."""
    for folder in [*parent.glob(f"{_PREFIX}*"), *parent.glob(f"{_UNLOCKED}*")]:
        with suppress(OSError):  # another process may remove it at the same time
            if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid():
                _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    if folder.name.startswith(_UNLOCKED) or not (folder / _LOCK).is_file():
        if time.time() - folder.stat().st_mtime > _SECONDS_WITHOUT_LOCK:
            shutil.rmtree(folder, ignore_errors=True)
        return
    lock = FileLock.take(folder / _LOCK)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
