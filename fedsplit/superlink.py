"""The SuperLink of one project: its own port, state and log, found again by the next run.

Flower's own background SuperLink has one fixed port for the whole machine, so runs of all folders
meet on it, in the environment and working directory of whichever folder came first. Here each
project has its own. It runs apps in the environment that started it, which saves each run the
making and compiling of an environment of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

import psutil

from fedsplit.errors import RunError, cannot_write
from fedsplit.locks import FileLock

_START_SECONDS = 30.0
_ANSWER_SECONDS = 5.0
"""Within which a SuperLink that runs has to answer."""
_STOP_SECONDS = 10.0
_REST_SECONDS = 3.0
"""What its runs left has this time to end by itself, once it is asked to."""
_PROBE_EVERY_SECONDS = 0.05
_MARK = "FEDSPLIT_SUPERLINK"
"""An environment variable that a SuperLink and all that it starts have: the folder of its state."""
_QUIET = {
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "PYTHONUNBUFFERED": "1",
    # Ray's remark about GPUs, at the start of every run.
    "PYTHONWARNINGS": "ignore::FutureWarning:ray._private.worker",
}


@dataclass(frozen=True)
class _Made:
    """How a SuperLink was made, as ``superlink.json`` in its folder says it."""

    project: str
    environment: str
    versions: str
    port: int

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        try:
            return cls(**json.loads((folder / "superlink.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


class SuperLink:
    """The SuperLink of one project, whether it runs or not.

    Parameters
    ----------
    project : Path
        The folder of the Flower app.

    Attributes
    ----------
    home : Path
        The ``FLWR_HOME`` of its processes, and of commands that speak to it.
    """

    def __init__(self, project: Path) -> None:
        self.project = project.resolve()
        digest = hashlib.sha256(os.fsencode(self.project)).hexdigest()[:8]
        self.home = _all_homes() / f"{self.project.name or 'root'}-{digest}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        """What the SuperLink's processes print."""
        return self.home / "superlink.log"

    @property
    def _has_answered(self) -> Path:
        """A file that exists once it has started: what does not answer then, hangs."""
        return self.home / "answered"

    @property
    def address(self) -> str:
        """Where it listens; empty if it has never run."""
        made = _Made.read(self.home)
        return "" if made is None else f"127.0.0.1:{made.port}"

    def pid(self) -> int | None:
        """Return the id of its process, or None if it does not run."""
        if self._process is not None:
            self._process.poll()  # or a dead child would stay, and hold nothing
        return FileLock.owner(self.home / "lock")

    def begin(self) -> bool:
        """Start it unless it runs, and do not wait for it; return whether it was started.

        One that was started by another environment, or by other versions, is ended first: it would
        run apps there.

        Raises
        ------
        RunError
            If its folder cannot be written, or the other one does not end.
        """
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            lock = FileLock.take(self.home / "lock")
            if lock is None and not self._is_ours():
                self.end()
                lock = FileLock.take(self.home / "lock")
            if lock is None:
                return False
            self.end_rest()
            self._spawn(lock)
        except OSError as error:
            raise cannot_write(self.home, error) from None
        return True

    def wait(self) -> None:
        """Wait until it answers.

        Raises
        ------
        RunError
            If it has ended, or does not answer in time.
        """
        seconds = _ANSWER_SECONDS if self._has_answered.exists() else _START_SECONDS
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise RunError(
                    f"The SuperLink of '{self.project}' has ended with status "
                    f"{self._process.returncode}; '{self.log_path}' says why."
                )
            if self._answers():
                self._has_answered.touch()
                return
            time.sleep(_PROBE_EVERY_SECONDS)  # it tells nobody when it is ready
        raise RunError(
            f"The SuperLink of '{self.project}' (process {self.pid()}, {self.address}) does not "
            f"answer within {seconds:g} seconds. End it with 'fedsplit stop', and give the command "
            f"again. Its log: '{self.log_path}'."
        )

    def end(self) -> bool:
        """End it with everything that it runs; return whether it was running.

        Raises
        ------
        RunError
            If it does not end.
        """
        pid = self.pid()
        if pid is None:
            return False
        sessions = self.sessions()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + _STOP_SECONDS
            while self.pid() is not None and time.monotonic() < deadline:
                time.sleep(_PROBE_EVERY_SECONDS)  # a lock of another process can only be tried
            if self.pid() is None:
                self.end_rest(sessions)
                return True
        raise RunError(f"The SuperLink of '{self.project}' (process {pid}) cannot be ended.")

    def sessions(self) -> frozenset[int]:
        """Return the sessions of its process and of all that it has started.

        Ray's agents overwrite their environments, and with them the mark. Their session stays.
        """
        return frozenset(session for _, session, is_ours in self._processes() if is_ours)

    def end_rest(self, sessions: frozenset[int] = frozenset()) -> None:
        """End what is left of the runs of a SuperLink that has ended.

        Ray's agents notice only after half a minute that their parents are gone.

        Parameters
        ----------
        sessions : frozenset[int]
            What `sessions` has returned before it ended.
        """
        processes = list(self._processes())
        sessions |= {session for _, session, is_ours in processes if is_ours}
        left = [process for process, session, _ in processes if session in sessions]
        for process in left:
            with suppress(psutil.Error):
                process.terminate()
        for process in psutil.wait_procs(left, _REST_SECONDS)[1]:
            with suppress(psutil.Error):
                process.kill()

    def _processes(self) -> Iterator[tuple[psutil.Process, int, bool]]:
        """Yield each process, its session, and whether it has the mark of this SuperLink."""
        for process in psutil.process_iter():
            with suppress(OSError):  # it has just ended
                session, mark = os.getsid(process.pid), None
                with suppress(psutil.Error, OSError):  # the same, or it is another user's
                    mark = process.environ().get(_MARK)
                yield process, session, mark == str(self.home)

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a command that speaks to this SuperLink."""
        # Flower starts this environment's programs by name.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        ours = {**os.environ, "PATH": path, "FLWR_HOME": str(self.home), **_QUIET}
        if ours.pop("PYTHONDONTWRITEBYTECODE", ""):
            # Else each process of each run would compile torch again, for ten seconds.
            ours["PYTHONPYCACHEPREFIX"] = str(self.home / "bytecode")
        return ours

    def _is_ours(self) -> bool:
        made = _Made.read(self.home)
        # None: another command has just started it, and has not written that down yet.
        return made is None or (made.environment, made.versions) == (sys.prefix, _versions())

    def _answers(self) -> bool:
        if not self.address or self.pid() is None:
            return False
        with (
            suppress(urllib.error.URLError, TimeoutError, ConnectionError),
            urllib.request.urlopen(f"http://{self.address}/health", timeout=1.0),
        ):
            return True
        return False

    def _spawn(self, lock: FileLock) -> None:
        """Start the process, which holds the lock from then on, as long as it lives."""
        self._has_answered.unlink(missing_ok=True)
        port = _free_port()
        made = _Made(str(self.project), sys.prefix, _versions(), port)
        # Its runs' working directory: one that stays, and from which nothing is imported.
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program("flower-superlink"), "--insecure", "--simulation"),
                    *("--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(port)),
                    *("--database", str(self.home / "state.db")),
                    "--disable-runtime-dependency-installation",
                ],
                env={**self.environment(), _MARK: str(self.home)},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.descriptor],
                start_new_session=True,
            )
        lock.hand_to(self._process.pid)
        (self.home / "config.toml").write_text(
            f'[superlink]\ndefault = "project"\n\n[superlink.project]\n'
            f'address = "127.0.0.1:{port}"\ninsecure = true\n',
            encoding="utf-8",
        )
        (self.home / "superlink.json").write_text(json.dumps(asdict(made)), encoding="utf-8")


def running() -> Iterator[SuperLink]:
    """Yield the SuperLinks of this user's projects that run now."""
    for folder in sorted(_all_homes().glob("*/superlink.json")):
        made = _Made.read(folder.parent)
        if made is not None and FileLock.owner(folder.with_name("lock")) is not None:
            yield SuperLink(Path(made.project))


def program(name: str) -> str:
    """Return the path of one of this environment's programs."""
    return str(Path(sys.executable).with_name(name))


def _all_homes() -> Path:
    return Path(os.environ.get("FLWR_HOME") or "~/.flwr").expanduser().absolute() / "fedsplit"


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("fedsplit", "flwr"))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
