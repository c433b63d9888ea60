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
SECONDS = 300.0
# Where the tests run in the background, SIGINT is ignored, which a child inherits.
FEDSPLIT = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from fedsplit.cli import main; main()"
)


class Projects:
    """Apps in a folder of their own, with a FLWR_HOME and a temporary folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**environment(folder / "home"), "TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir()

    def app(self, name: str) -> Path:
        make_project(self.folder / name, "classification")
        return self.folder / name

    def begin(self, app: Path, *arguments: str) -> subprocess.Popen[str]:
        """Start `fedsplit run` in an app's folder."""
        return subprocess.Popen(
            [sys.executable, "-c", FEDSPLIT, "run", *SMALL, *arguments],
            cwd=app,
            env=self.env,
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

    def left_in_temporary_folder(self) -> list[str]:
        return [path.name for path in (self.folder / "tmp").glob("*fedsplit-*")]

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


def until_first_round(process: subprocess.Popen[str]) -> None:
    """Wait for the line of the first round."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.lstrip().startswith("1/"):
            return
    raise AssertionError("".join(lines))


def gone(home: Path, name: str, seconds: float = 30.0) -> Mapping[int, str]:
    """Return which processes of a SuperLink are still there, after some time if need be."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(home, name)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_says_what_is_kept_and_leaves_nothing(
    projects: Projects, number: signal.Signals
) -> None:
    """Break it: end the command `flwr run` only, and the run goes on in the background."""
    app = projects.app("app")
    process = projects.begin(app, *ENDLESS, "--set", "run-name=one")
    until_first_round(process)
    begin = time.monotonic()
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    assert time.monotonic() - begin < 45
    assert process.returncode == 130, rest
    assert "Everything up to round" in rest
    assert "fedsplit run --resume" in rest
    link = projects.superlink(app)
    assert gone(link.home, "ray::") == gone(link.home, "flwr-simulation") == {}
    assert projects.left_in_temporary_folder() == []
    assert (app / "runs" / "one" / "log.txt").is_file()
    assert not (app / "runs" / "one" / "summary.json").exists()
    assert not (app / "runs" / "one" / "error.txt").exists()  # it has not failed

    assert link.pid() is not None  # it serves the next run
    assert projects.stop(app) == f"Ended the SuperLink of '{app}'.\n"
    assert gone(link.home, "") == {}
    assert projects.stop(app) == "No SuperLink of this project runs.\n"


def test_a_superlink_that_dies_ends_the_command_with_the_remedy(projects: Projects) -> None:
    """Break it: wait for the log of a run that has ended."""
    app = projects.app("app")
    process = projects.begin(app, *ENDLESS, "--set", "run-name=one")
    until_first_round(process)
    link = projects.superlink(app)
    pid = link.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    rest, _ = process.communicate(timeout=60)
    assert time.monotonic() - begin < 10
    assert process.returncode == 1
    assert "because the project's SuperLink has ended" in rest
    assert "fedsplit run --resume" in rest
    assert gone(link.home, "") == {}


def test_two_projects_at_once_have_a_superlink_each(projects: Projects) -> None:
    """Break it: give them one, and a run lands in the other's folder."""
    for last in (False, True):
        apps = [projects.app(f"app-{name}-{last}") for name in ("a", "b")]
        running = [projects.begin(app) for app in apps]
        outputs = [process.communicate(timeout=SECONDS)[0] for process in running]
        if last or not any(RAY_GAVE_UP in output for output in outputs):
            break
    assert [process.returncode for process in running] == [0, 0], outputs
    for app, output in zip(apps, outputs, strict=True):
        (run_dir,) = (app / "runs").iterdir()
        assert f"Run directory: {run_dir}" in output
        assert (run_dir / "summary.json").is_file()
        assert (run_dir / "flower.txt").is_file()
    links = [projects.superlink(app) for app in apps]
    assert len({link.address for link in links}) == len({link.pid() for link in links}) == 2
    done = subprocess.run(
        [program("fedsplit"), "stop", "--all"],
        env=projects.env, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert sorted(done.stdout.splitlines()) == [f"Ended the SuperLink of '{app}'." for app in apps]
    assert [gone(link.home, "") for link in links] == [{}, {}]
