"""A program that checks Arrow files: those that end it would have ended the run.

Reading a value of a file with a forged offset is a memory fault, which no `except` sees. So a run
starts this program first (see `fedsplit.data.arrow_files`). It imports nothing of fedsplit, because
that would take seconds.

    python arrow_check.py MEMORY_BYTES < names-of-files.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def fault_of(path: str) -> str:
    """Return what is wrong with a file of Arrow's stream format; "" if nothing is."""
    import pyarrow as pa

    try:
        with pa.memory_map(path) as file, pa.ipc.open_stream(file) as reader:
            table: Any = reader.read_all()
            table.validate(full=True)
    except Exception as error:  # pyarrow's own, UnicodeDecodeError, MemoryError, ...
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
    return ""


def main() -> None:
    """Write the first file that is broken, and why, as JSON; null if all are whole."""
    limit = int(sys.argv[1])
    paths: list[str] = json.load(sys.stdin)
    _limit_memory(limit + sum(Path(path).stat().st_size for path in paths))
    found = next(([path, fault] for path in paths if (fault := fault_of(path))), None)
    sys.stdout.write(json.dumps(found))


def _limit_memory(more: int) -> None:
    """Allow so many bytes more than there are now: a small file can claim to hold terabytes.

    Only Linux says how many there are; elsewhere there is no limit but the time.
    """
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return
    import resource

    import pyarrow.ipc  # noqa: F401  # what it takes itself is not counted

    pages = int(statm.read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + more
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


if __name__ == "__main__":
    main()
