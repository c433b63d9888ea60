"""Check Arrow files before they are read: in another process, once for each state of a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fedsplit.data import arrow_check
from fedsplit.errors import DataError

MEMORY_BYTES = 2**30
"""What checking may take on top of the files, which are mapped and not read."""
TIMEOUT_SECONDS = 60.0
_BYTES_PER_SECOND = 50e6

_State = tuple[str, int, int]
_whole: set[_State] = set()


def check_arrow_files(paths: Sequence[Path], name: str) -> None:
    """Refuse Arrow files whose values cannot be read.

    Parameters
    ----------
    paths : Sequence[Path]
        Regular files of Arrow's stream format, as ``save_to_disk`` writes them.
    name : str
        The data set's, for the message.

    Raises
    ------
    DataError
        If one is broken, or to check them takes too long.
    """
    states = {_state(path): path for path in paths}
    unknown = [path for state, path in states.items() if state not in _whole]
    if not unknown:
        return
    size = sum(path.stat().st_size for path in unknown)
    seconds = TIMEOUT_SECONDS + size / _BYTES_PER_SECOND
    # -P: the program's own folder has modules that must not hide those of others.
    command = [sys.executable, "-P", str(Path(arrow_check.__file__)), str(MEMORY_BYTES)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps([os.fspath(path) for path in unknown]),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except subprocess.TimeoutExpired:
        raise _broken(name, f"checking its files took more than {seconds:.0f} s") from None
    if done.returncode < 0:
        raise _broken(name, f"reading a file ends a process (signal {-done.returncode})")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise _broken(name, f"its files cannot be checked: {last}")
    if found := json.loads(done.stdout):
        path, fault = found
        raise _broken(name, f"'{os.path.basename(path)}' is no whole Arrow file: {fault}")
    _whole.update(states)


def _state(path: Path) -> _State:
    status = path.stat()
    return os.fspath(path.resolve()), status.st_size, status.st_mtime_ns


def _broken(name: str, fault: str) -> DataError:
    return DataError(
        f"The saved data set '{name}' is broken: {fault}. Copy it again, or save it again with "
        "save_to_disk."
    )
