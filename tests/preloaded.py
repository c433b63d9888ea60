"""Python processes that have imported torch and its companions before they begin.

To import them takes seven seconds of a core. A server imports them once, and forks itself for each
process that a test asks for. Such a process has its own arguments, environment, working directory
and standard streams, and ends as any other: with its exit code, or by a signal. A test whose claim
is the start of Python itself, or what is imported in it, starts Python.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    *("fedsplit.inprocess", "fedsplit.cli", "fedsplit.models.libraries.transformers"),
    *("transformers.modeling_utils", "transformers.models.auto.image_processing_auto"),
    *(
        "flwr_datasets.partitioner",
        "torchvision.transforms.v2",
    ),  # what a run imports when it begins
)
"""Imported, never used: torch has no threads and gRPC no connections, which a fork would lose."""
_PROGRAM = """
import sys
sys.path[0] = sys.argv[1]
from tests.preloaded import become, serve
become(serve(int(sys.argv[2])))
"""
_LARGEST = 1 << 17  # bytes of a request: most of them are the environment


class _Request(NamedTuple):
    arguments: list[str]
    environment: dict[str, str]
    folder: str


class Process:
    """A process that a server has forked: what tests need of `subprocess.Popen`."""

    def __init__(self, state: socket.socket, out: int, err: int) -> None:
        self._state, self._written = state, (out, err)
        self.pid = int(state.recv(16))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code if it has ended."""
        return self._ended_within(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return its exit code."""
        code = self._ended_within(timeout)
        assert code is not None, f"process {self.pid} has not ended within {timeout} s"
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end, and return its standard output and error."""
        self.wait(timeout)
        out, err = (os.pread(fd, os.fstat(fd).st_size, 0).decode() for fd in self._written)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send it a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float | None) -> int | None:
        if self.returncode is None:
            self._state.settimeout(seconds)
            try:
                status = self._state.recv(16)
            except (TimeoutError, BlockingIOError):
                return None
            self.returncode = os.waitstatus_to_exitcode(int(status))
        return self.returncode

    def __del__(self) -> None:
        self._state.close()
        for fd in self._written:
            os.close(fd)


class Server:
    """A process that has imported everything, and forks those of tests.

    Parameters
    ----------
    environment : Mapping[str, str] | None
        What libraries that read it when they are imported find. None is that of this process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.environment = os.environ if environment is None else environment
        without_path = {key: text for key, text in self.environment.items() if key != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(ROOT), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=without_path,  # each process has its own
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the tests; this ends when they do
        )
        theirs.close()

    def start(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start what ``python`` is with these arguments, which begin with -c, -m, or a file."""
        environment = dict(self.environment if env is None else env)
        request = pickle.dumps(tuple(_Request([*arguments], environment, str(cwd or Path.cwd()))))
        assert len(request) < _LARGEST
        state, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            streams = [out.fileno(), err.fileno()]
            socket.send_fds(self._requests, [request], [theirs.fileno(), *streams])
            theirs.close()
            return Process(state, *map(os.dup, streams))

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Do the same, wait for the end, and return what `subprocess.run` would."""
        process = self.start(arguments, cwd=cwd, env=env)
        try:
            out, err = process.communicate(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess([*arguments], process.wait(), out, err)

    def close(self) -> None:
        """End the server. What it has forked goes on."""
        self._requests.close()
        self._process.wait()


@functools.cache
def server() -> Server:
    """Return the server of this process, which ends with it."""
    started = Server()
    atexit.register(started.close)
    return started


def serve(requests_fd: int) -> _Request:
    """Fork a process for each request; return in these. Exit when no more can come."""
    for module in LIBRARIES:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, _reap)
    requests = socket.socket(fileno=requests_fd)
    while True:
        message, fds, *_ = socket.recv_fds(requests, _LARGEST, 3)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _fork_and_watch(*fds)
            return _Request(*pickle.loads(message))
        for fd in fds:
            os.close(fd)


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _fork_and_watch(state_fd: int, out: int, err: int) -> None:
    """Return in a new process with these streams. This one tells its number and its end."""
    state = socket.socket(fileno=state_fd)
    process = os.fork()
    if process == 0:
        state.close()
        for number, fd in ((1, out), (2, err)):
            os.dup2(fd, number)
            os.close(fd)
        return
    state.send(str(process).encode())
    status = os.waitpid(process, 0)[1]
    try:
        state.send(str(status).encode())
    finally:
        os._exit(0)


def become(request: _Request) -> NoReturn:
    """Be what was asked for, and end as Python does, without a second in which memory is freed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    given = request.environment.get("PYTHONPATH", "")
    sys.path[1:1] = [str(Path(path).absolute()) for path in given.split(os.pathsep) if path]
    code: object = 0
    try:
        _execute(*request.arguments)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1 if isinstance(error, Exception) else -signal.SIGINT
    if not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _execute(first: str, *arguments: str) -> None:
    if first == "-c":
        code, *arguments_of_code = arguments
        sys.argv, sys.path[0] = ["-c", *arguments_of_code], ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif first == "-m":
        module, *arguments_of_code = arguments
        sys.argv, sys.path[0] = ["-m", *arguments_of_code], str(Path.cwd())
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *arguments], str(Path(first).absolute().parent)
        runpy.run_path(first, run_name="__main__")
