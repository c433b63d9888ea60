"""A lock that the operating system releases when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self


class FileLock:
    """A file that one process at a time holds. It has the id of that process in it.

    The file stays when the lock is released. Another process may hold it by then.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Take the lock, or return None if it is held.

        Raises
        ------
        OSError
            If the file cannot be opened or written.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # such as a full disk
            os.close(descriptor)
            raise
        return cls(descriptor)

    @staticmethod
    def owner(path: Path) -> int | None:
        """Return the id of the process that holds the lock of a file; None if none does."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(descriptor, 20)
            return int(text) if text.isdigit() else None
        finally:
            os.close(descriptor)
        return None

    def hand_to(self, pid: int) -> None:
        """Leave the lock to a child process that has inherited `descriptor`, until it ends."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, str(pid).encode(), 0)
        os.close(self.descriptor)

    def release(self) -> None:
        """Let others take it."""
        os.close(self.descriptor)
