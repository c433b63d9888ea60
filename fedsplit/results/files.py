"""Files and folders that are written whole or not at all.

What is written gets a temporary name in the same folder first. A process that is killed leaves the
old content or the new. It may also leave temporary names, which `remove_partial` removes. A folder
that is killed between its two renames has the old content under such a name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedsplit import bounded_json
from fedsplit.data.regular_files import open_regular
from fedsplit.errors import cannot_write

_PARTIAL = ".partial-"
_OLD = ".old-"
_LARGEST_OBJECT = 256 * 2**20


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file by what `write` writes to the path that it is given.

    The content is on the disk before it gets its name, and so is the name when this returns.

    Raises
    ------
    RunError
        If it cannot be written. The old file is then unchanged.
    """
    temporary = path.with_name(f"{_PARTIAL}{path.name}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask says; safetensors lets only the owner read
        write(temporary)
        temporary.chmod(mode)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None


def read_lines(path: Path, *, whole: bool = False) -> list[dict[str, Any]]:
    """Return the objects in a file, one a line; none if there is no file.

    A last line without an end is left out, unless all must be `whole`: its process was killed, or
    the disk was full, while it was written.

    Raises
    ------
    OSError, ValueError
        If it cannot be read; names the first line that holds no JSON object.
    """
    try:
        with open_regular(path) as file:
            lines = file.read().decode("utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, start=1):
        if whole or line.endswith("\n"):
            found.append(_object(line, f"line {number} of '{path.name}'"))
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or holds something else.
    """
    with open_regular(path) as file:
        data = file.read(_LARGEST_OBJECT + 1)
    if len(data) > _LARGEST_OBJECT:
        raise ValueError(f"'{path.name}' has more than {_LARGEST_OBJECT:,} bytes")
    return _object(data.decode("utf-8"), f"'{path.name}'")


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = bounded_json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where} is {found!r:.40}, no JSON object")
    return found


def append_line(path: Path, line: str) -> None:
    """Add a line to a file. A process that is killed right after has written it.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    try:
        # Unbuffered: the line reaches the kernel in one write, whole.
        with path.open("ab", buffering=0) as file:
            file.write(f"{line}\n".encode())
    except OSError as error:
        raise cannot_write(path, error) from None


def replace_text(path: Path, text: str) -> None:
    """Replace a file by a text in UTF-8 (see `replace_file`)."""
    # Folder names need not be valid Unicode: a lone surrogate becomes an escape of JSON.
    data = text.encode(errors="backslashreplace")
    replace_file(path, lambda temporary: temporary.write_bytes(data))


def replace_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a folder by one that `write` fills; if that fails, the old one is unchanged."""
    temporary, old = (path.with_name(f"{prefix}{path.name}") for prefix in (_PARTIAL, _OLD))
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir()
        write(temporary)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove what an interrupted process has left under temporary names."""
    for path in [*folder.glob(f"{_PARTIAL}*"), *folder.glob(f"{_OLD}*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
