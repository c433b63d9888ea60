from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedsplit.errors import cannot_read, cannot_write


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        OSError(errno.ENFILE, os.strerror(errno.ENFILE)),
        RuntimeError("unable to open file </tmp/0.safetensors>: Too many open files (24)"),  # torch
    ],
)
def test_a_process_without_descriptors_is_told_to_raise_their_limit(error: Exception) -> None:
    """Break it: say that the disk is full, or that a file is missing."""
    for fault in (cannot_write(Path("a"), error), cannot_read(Path("a"), error)):
        assert "Raise the limit of open files, for example with 'ulimit -n 4096'" in str(fault)
        assert "disk" not in str(fault)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_may_not_be_written_to_is_no_full_disk(number: int) -> None:
    """Break it: ask for free space whatever is in the way."""
    said = str(cannot_write(Path("a"), OSError(number, os.strerror(number))))
    assert said.endswith("Give yourself permission to write there, or work on a copy elsewhere.")
    assert "disk" not in said


def test_a_full_disk_is_told_from_a_missing_file() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(cannot_write(Path("a"), full)).startswith(
        "Cannot write 'a': No space left on device. Free space on its disk"
    )
    gone = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    assert "nothing else removes files" in str(cannot_read(Path("a"), gone))
