"""Flower as a user runs it, on a SuperLink that no other program knows of."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.e2e.processes import ProcessGroup

Scalar = str | int | float | bool

START_SECONDS = 60.0
CONNECTION = "own"
ONE_ACTOR = "client-resources-num-cpus=1 init-args-num-cpus=1"
"""Part of a federation's settings: one Ray actor serves all clients, in one process's time."""
RAY_GAVE_UP = "The current node timed out during startup"


@dataclass(frozen=True)
class FlowerRun:
    """What came of one ``flwr run``.

    Attributes
    ----------
    exit_code : int
        Of the command. That of ``flwr run`` is 0 whenever the run was accepted, also when it
        failed afterwards.
    output : str
        Everything it printed, with the run's log.
    run_id : str
        Empty if the run was not accepted.
    status : str
        ``finished:completed``, ``finished:failed``, ...; empty if the run was not accepted.
    details : str
        Why it failed: the text of the exception.
    """

    exit_code: int
    output: str
    run_id: str = ""
    status: str = ""
    details: str = ""

    @property
    def completed(self) -> bool:
        """Whether the run was accepted and ended without an error."""
        return self.status == "finished:completed"


class Flower:
    """A SuperLink with its own port, state, settings and working directory.

    A user's SuperLink listens on a fixed port, whatever ``FLWR_HOME`` is; this one never meets it.
    Use it as a context manager: leaving it ends every process and removes every file.

    Parameters
    ----------
    simulation : bool
        Whether runs get simulated SuperNodes, or wait for those that `add_supernode` starts.
    """

    def __init__(self, *, simulation: bool = True) -> None:
        self._mode = ["--simulation"] if simulation else []
        self._supernodes: list[ProcessGroup] = []
        self._worker: ProcessGroup | None = None
        self._worker_kind: tuple[bool, Path | None] = (False, None)
        # Ray puts Unix sockets below it, whose paths may have 107 characters: keep it short.
        parent = "/tmp" if Path("/tmp").is_dir() else None
        self.home = Path(tempfile.mkdtemp(prefix="fs", dir=parent))
        self.log = self.home / "superlink.log"
        self.env = environment(self.home)
        self.port = 0
        self._superlink: ProcessGroup | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(
        self,
        app_dir: Path,
        *arguments: str,
        federation: str = "num-supernodes=2 client-resources-num-cpus=1",
        run_config: Mapping[str, Scalar] | Path | None = None,
        install: bool = False,
        pythonpath: Path | None = None,
        timeout_seconds: float = 400.0,
    ) -> FlowerRun:
        """Run an app by ``flwr run APP_DIR --stream`` and wait for its end.

        Parameters
        ----------
        app_dir : Path
            The folder with the app's pyproject.toml.
        *arguments : str
            More arguments of ``flwr run``.
        federation : str
            The value of ``--federation-config``; empty for Flower's default federation.
        run_config : Mapping[str, Scalar] | Path | None
            Keys that differ from the app's defaults, or a TOML file of them.
        install, pythonpath : bool, Path | None
            Of the `need_worker` that starts the run.
        timeout_seconds : float
            When to give up.

        Raises
        ------
        subprocess.TimeoutExpired
            If the run takes longer. Its processes are ended all the same.
        """
        self.need_worker(install=install, pythonpath=pythonpath)
        return self.submit(
            app_dir,
            *arguments,
            federation=federation,
            run_config=run_config,
            timeout_seconds=timeout_seconds,
        )

    def submit(
        self,
        app_dir: Path,
        *arguments: str,
        federation: str = "num-supernodes=2 client-resources-num-cpus=1",
        run_config: Mapping[str, Scalar] | Path | None = None,
        timeout_seconds: float = 400.0,
    ) -> FlowerRun:
        """Do as `run` does, with the worker that is there, if any."""
        command = [program("flwr"), "run", str(app_dir), CONNECTION, "--stream", *arguments]
        if federation:
            command += ["--federation-config", federation]
        if run_config is not None:
            command += ["--run-config", str(self._as_file(run_config))]
        done = self.call(command, timeout_seconds=timeout_seconds)
        return self.ended(done)

    def ended(self, done: subprocess.CompletedProcess[str]) -> FlowerRun:
        """Return what came of a command that called ``flwr run``, with what it printed."""
        accepted = re.search(r"Successfully started run (\d+)", done.stdout)
        if accepted is None:
            return FlowerRun(done.returncode, done.stdout)
        if self._superlink is None or self._superlink.exit_code is not None:
            return FlowerRun(done.returncode, done.stdout, accepted[1], "the SuperLink has died")
        status, details = self.status(accepted[1])
        return FlowerRun(done.returncode, done.stdout, accepted[1], status, details)

    def need_worker(self, *, install: bool = False, pythonpath: Path | None = None) -> None:
        """Start the process that starts runs, unless one of this kind is there.

        The SuperLink leaves it to a SuperExec to start runs. It serves all runs of its kind, one
        after the other, and holds their processes, Ray's too, in one group. Two at a time would
        take each other's runs, so one of another kind is ended first.

        Parameters
        ----------
        install : bool
            Whether Flower makes an environment with the app's dependencies for each run, as it
            does by default, or uses this one.
        pythonpath : Path | None
            A folder from which the processes of its runs can also import.
        """
        kind = (install, pythonpath)
        if self._worker is not None and kind == self._worker_kind:
            return
        self._end_worker()
        self._worker_kind = kind
        self._worker = self._spawn(
            *("flower-superexec", "--insecure", "--runtime-api-address", self.address),
            *(["--allow-runtime-dependency-installation"] if install else []),
            pythonpath=pythonpath,
        )

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.end()
        self._worker = None

    def add_supernode(self, node_config: str) -> None:
        """Start a SuperNode, as on a machine of its own, with the value of ``--node-config``."""
        port = str(_free_port())
        self._supernodes.append(
            self._spawn(
                *("flower-supernode", "--insecure", "--superlink", self.address),
                *("--host", "127.0.0.1", "--port", port, "--node-config", node_config),
            )
        )

    def call(
        self, command: Sequence[str], *, timeout_seconds: float, merge: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that speaks to this SuperLink, and return what it printed.

        Ray gives its own processes 30 seconds to start, whatever the machine is busy with, before
        anything of the app runs. A command whose run ended by that is run once more.

        Parameters
        ----------
        command : Sequence[str]
            The program and its arguments.
        timeout_seconds : float
            When to give up.
        merge : bool
            Whether what it prints as errors is part of ``stdout``, in order, or kept apart.

        Raises
        ------
        subprocess.TimeoutExpired
            If it takes longer. The processes of its run are ended.
        """
        for last in (False, True):
            try:
                done = subprocess.run(
                    command,
                    env=self.env,
                    cwd=self.home,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT if merge else subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    timeout=timeout_seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                self._end_worker()  # with the processes of the run that is given up
                raise
            if last or RAY_GAVE_UP not in done.stdout:
                break
        return done

    def status(self, run_id: str) -> tuple[str, str]:
        """Return a run's status and what Flower says about it."""
        command = [program("flwr"), "list", CONNECTION, "--run-id", run_id, "--format", "json"]
        listed = self.call(command, timeout_seconds=START_SECONDS, merge=False)
        (run,) = json.loads(listed.stdout)["runs"]
        return run["status"], run["status-details"]

    @property
    def address(self) -> str:
        """Where the SuperLink listens."""
        return f"127.0.0.1:{self.port}"

    def restart(self) -> None:
        """End every process, also those that are left of killed ones, and start a SuperLink."""
        self._end()
        self._start()

    def stop(self) -> None:
        """End the SuperLink and remove its files. Does nothing the second time."""
        self._end()
        shutil.rmtree(self.home, ignore_errors=True)

    def _end(self) -> None:
        for group in [self._worker, *self._supernodes, self._superlink]:
            if group is not None:
                group.end()
        self._worker, self._supernodes, self._superlink = None, [], None

    def _start(self, *, tries: int = 3) -> None:
        for _ in range(tries):  # between finding a port and using it another program may take it
            self.port = _free_port()
            self._superlink = self._spawn(
                *("flower-superlink", "--insecure", *self._mode, "--isolation", "process"),
                *("--host", "127.0.0.1", "--port", str(self.port)),
            )
            if self._wait_until_healthy(self._superlink):
                break
            self._superlink.end()
        else:
            raise RuntimeError(f"flower-superlink does not start:\n{self.log.read_text()}")
        (self.home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n'
            f'[superlink.{CONNECTION}]\naddress = "{self.address}"\ninsecure = true\n',
            encoding="utf-8",
        )

    def _wait_until_healthy(self, superlink: ProcessGroup) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while superlink.exit_code is None and time.monotonic() < deadline:
            with (
                contextlib.suppress(urllib.error.URLError, TimeoutError, ConnectionError),
                urllib.request.urlopen(f"http://{self.address}/health", timeout=1.0),
            ):
                return superlink.exit_code is None
            time.sleep(0.1)
        return False

    def _spawn(self, name: str, *arguments: str, pythonpath: Path | None = None) -> ProcessGroup:
        env = self.env
        if pythonpath is not None:
            paths = [str(pythonpath), *filter(None, [env.get("PYTHONPATH")])]
            env = env | {"PYTHONPATH": os.pathsep.join(paths)}
        return ProcessGroup([program(name), *arguments], env=env, cwd=self.home, log=self.log)

    def _as_file(self, run_config: Mapping[str, Scalar] | Path) -> Path:
        if isinstance(run_config, Path):
            return run_config
        with tempfile.NamedTemporaryFile("w", dir=self.home, suffix=".toml", delete=False) as file:
            file.write(as_toml(run_config))
        return Path(file.name)


def as_toml(run_config: Mapping[str, Scalar]) -> str:
    """Return a run config as the text of a file, with everything in it as it is."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in run_config.items())


def environment(home: Path) -> dict[str, str]:
    """Return this environment, with Flower's and Ray's state in a folder, and no telemetry."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "RAY"))}
    bin_dir = str(Path(sys.executable).parent)  # Flower starts its other programs by name
    return kept | {
        "PATH": os.pathsep.join([bin_dir, kept.get("PATH", "")]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
    }


def fedsplit_run(*arguments: str) -> list[str]:
    """Return the command `fedsplit run` that uses the SuperLink of `Flower`."""
    return [program("fedsplit"), "run", "--superlink", CONNECTION, *arguments]


def program(name: str) -> str:
    """Return the path of a program that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
