"""Processes that are ended with everything they started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE_SECONDS = 3.0


class ProcessGroup:
    """A program and all its descendants, in a process group of their own.

    Ray leaves some of its processes behind when the one that started it is ended, and they are
    then nobody's children; the group is what still names them.

    Parameters
    ----------
    command : Sequence[str]
        The program and its arguments.
    env : Mapping[str, str]
        Its whole environment.
    cwd : Path
        Its working directory.
    log : Path
        What it and its descendants print is appended here.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
    ) -> None:
        with log.open("ab") as output:
            self._leader = subprocess.Popen(
                command,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """The exit code of the program itself; None while it runs."""
        return self._leader.poll()

    def alive(self) -> bool:
        """Tell whether any process of the group still runs."""
        self._leader.poll()  # or its own zombie would count
        return self._send(0)

    def end(self, *, grace_seconds: float = GRACE_SECONDS) -> None:
        """Ask every process of the group to end, and after some seconds end the rest."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._send(number)
            deadline = time.monotonic() + grace_seconds
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.05)

    def _send(self, number: int) -> bool:
        try:
            os.killpg(self._leader.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def processes_of(home: Path, name: str = "") -> dict[int, str]:
    """Return id and command of the processes whose FLWR_HOME is a folder, and that have a name."""
    found = {}
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            command = environ.with_name("cmdline").read_bytes().decode(errors="replace")
            if name in command and f"FLWR_HOME={home}\0".encode() in environ.read_bytes():
                found[int(environ.parent.name)] = command
        except OSError:  # it has just ended, or is not ours
            continue
    return dict(sorted(found.items()))
