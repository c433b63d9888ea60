from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from fedsplit.locks import FileLock

HOLD = "import sys; from pathlib import Path; from fedsplit.locks import FileLock\n"


def test_one_process_at_a_time_holds_a_lock_and_is_known(tmp_path: Path) -> None:
    """Break it: release the lock when the file is closed by another open of it."""
    path = tmp_path / "lock"
    assert FileLock.owner(path) is None
    lock = FileLock.take(path)
    assert lock is not None
    assert FileLock.take(path) is None
    assert FileLock.owner(path) == os.getpid()
    lock.release()
    assert FileLock.owner(path) is None
    again = FileLock.take(path)
    assert again is not None
    again.release()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = f"{HOLD}FileLock.take(Path({str(path)!r})); print('taken', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"taken\n"
    assert FileLock.owner(path) == holder.pid
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert FileLock.owner(path) is None
