"""`fedsplit run` on the project's own SuperLink: interrupted, ended, and beside another project."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from fedsplit.new.project import make_project
from fedsplit.superlink import SuperLink
from tests.e2e.flower import RAY_GAVE_UP, environment, program
from tests.e2e.processes import processes_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = [
    *("--num-clients", "2", "--set", "data.max-train-samples=200"),
    *("--set", "data.max-test-samples=100", "--set", "max-concurrent-clients=1"),
]
ENDLESS = ["--set", "num-server-rounds=100000"]
# Where the tests run in the background, SIGINT is ignored, which a child inherits.
FEDSPLIT = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from fedsplit.cli import main; main()"
)


class Projects:
    """Apps in a folder of their own, with a FLWR_HOME and a temporary folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = environment(folder / "home")

    def app(self, name: str) -> Path:
        make_project(self.folder / name, "classification")
        return self.folder / name

    def begin(self, app: Path, *arguments: str) -> subprocess.Popen[str]:
        """Start `fedsplit run` in an app's folder."""
        temporary = self._temporary_folder(app)
        temporary.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", FEDSPLIT, "run", *SMALL, *arguments],
            cwd=app,
            env={**self.env, "TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # or pytest's own Ctrl-C handling would be in the way
        )

    def superlink(self, app: Path) -> SuperLink:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FLWR_HOME", self.env["FLWR_HOME"])
            return SuperLink(app)

    def left_in_temporary_folder(self, app: Path) -> list[str]:
        return [path.name for path in self._temporary_folder(app).glob("*fedsplit-*")]

    def _temporary_folder(self, app: Path) -> Path:
        return self.folder / "tmp" / app.name

    def stop(self, app: Path) -> str:
        done = subprocess.run(
            [program("fedsplit"), "stop"],
            cwd=app, env=self.env, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return done.stdout


@pytest.fixture
def projects() -> Iterator[Projects]:
    # Ray puts Unix sockets below it, whose paths may have 107 characters: keep it short.
    folder = Path(tempfile.mkdtemp(prefix="fo", dir="/tmp" if Path("/tmp").is_dir() else None))
    made = Projects(folder)
    yield made
    for home in (folder / "home" / "fedsplit").glob("*"):
        for pid in processes_of(home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def until_first_round(process: subprocess.Popen[str]) -> str:
    """Wait for the line of the first round, and return everything up to it."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.lstrip().startswith("1/"):
            return "".join(lines)
    raise AssertionError("".join(lines))


def gone(home: Path, name: str, seconds: float = 30.0) -> Mapping[int, str]:
    """Return which processes of a SuperLink are still there, after some time if need be."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(home, name)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def begin_both(projects: Projects) -> tuple[list[Path], list[subprocess.Popen[str]]]:
    """Start an endless run in each of two projects at once; return apps and processes.

    Both are in a later round than the first. Ray gives up where a busy machine starts it slowly.
    """
    for last in (False, True):
        apps = [projects.app(f"app-{name}-{last}") for name in ("a", "b")]
        running = [projects.begin(app, *ENDLESS, "--set", "run-name=one") for app in apps]
        try:
            for app, process in zip(apps, running, strict=True):
                assert f"Run directory: {app / 'runs' / 'one'}" in until_first_round(process)
        except AssertionError as error:
            for process in running:
                process.kill()
                process.communicate()
            if last or RAY_GAVE_UP not in str(error):
                raise
        else:
            break
    return apps, running


def test_two_projects_at_once_are_interrupted_and_ended_each_for_itself(projects: Projects) -> None:
    """One run gets Ctrl-C, while the other one goes on, until its SuperLink dies.

    Another run on the first one's SuperLink gets SIGTERM. A run that ends on its own SuperLink is
    in test_new_app.py, and ``stop --all`` in tests/test_superlink.py.

    Break it: end the command `flwr run` only, and the run goes on in the background; wait for the
    log of a run that has ended; give both one SuperLink, and a run lands in the other's folder.
    """
    (first, second), (interrupted, other) = begin_both(projects)
    links = [projects.superlink(app) for app in (first, second)]
    assert len({link.address for link in links}) == len({link.pid() for link in links}) == 2

    begin = time.monotonic()
    interrupted.send_signal(signal.SIGINT)
    rest, _ = interrupted.communicate(timeout=60)
    assert time.monotonic() - begin < 45
    assert interrupted.returncode == 130, rest
    assert "Everything up to round" in rest
    assert "fedsplit run --resume" in rest
    assert gone(links[0].home, "ray::") == gone(links[0].home, "flwr-simulation") == {}
    assert projects.left_in_temporary_folder(first) == []
    assert (first / "runs" / "one" / "log.txt").is_file()
    assert not (first / "runs" / "one" / "summary.json").exists()
    assert not (first / "runs" / "one" / "error.txt").exists()  # it has not failed

    rounds = second / "runs" / "one" / "rounds.jsonl"
    before, deadline = rounds.read_bytes(), time.monotonic() + 60
    while rounds.read_bytes() == before:
        assert other.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pid = links[1].pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    rest, _ = other.communicate(timeout=60)
    assert time.monotonic() - begin < 20  # on a busy machine; idle, it takes 3
    assert other.returncode == 1
    assert "because the project's SuperLink has ended" in rest
    assert "fedsplit run --resume" in rest
    assert gone(links[1].home, "") == {}

    assert links[0].pid() is not None  # it serves the next run
    terminated = projects.begin(first, *ENDLESS, "--set", "run-name=two")
    until_first_round(terminated)
    terminated.send_signal(signal.SIGTERM)
    rest, _ = terminated.communicate(timeout=60)
    assert terminated.returncode == 130, rest
    assert "Everything up to round" in rest
    assert gone(links[0].home, "ray::") == gone(links[0].home, "flwr-simulation") == {}
    assert projects.stop(first) == f"Ended the SuperLink of '{first}'.\n"
    assert gone(links[0].home, "") == {}
    assert projects.stop(first) == "No SuperLink of this project runs.\n"
