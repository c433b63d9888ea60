"""Regular files only: reading a pipe can wait for ever, and opening a device can do something."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class NotRegularError(OSError):
    """Something that can be read like a file, and is none."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file to read its bytes; never wait.

    Raises
    ------
    NotRegularError
        If it is a pipe, a socket, a device or a folder.
    OSError
        If it cannot be opened.
    """
    _check(os.stat(path), path)
    # Without O_NONBLOCK, a pipe that was put in its place just now would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def special_kind(path: str | Path) -> str | None:
    """Return what a path is if it is neither a regular file nor a folder nor missing."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else kind_of(mode)


def kind_of(mode: int) -> str:
    """Return what something with this mode is, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


def _check(status: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(f"'{path}' is {kind_of(status.st_mode)}, not a file")
