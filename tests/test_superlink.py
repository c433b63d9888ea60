"""A project's own SuperLink: found again, never another project's, noticed when it is dead."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fedsplit import superlink
from fedsplit.cli import main
from fedsplit.errors import RunError
from fedsplit.superlink import SuperLink, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

STUB = """#!{python}
import http.server, sys

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Own state; whatever runs at the end is ended."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    yield tmp_path
    for left in running():
        left.end()


@pytest.fixture
def stub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that answers as a SuperLink does and starts at once; returns its path."""
    path = home / "flower-superlink"
    path.write_text(STUB.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setattr(superlink, "program", lambda name: str(home / name))
    return path


def started(project: Path) -> SuperLink:
    found = SuperLink(project)
    assert found.begin()
    found.wait()
    return found


def test_flowers_own_program_starts_is_found_again_and_ends(home: Path) -> None:
    """Break it: leave the lock to this process, and nobody finds the SuperLink after its end."""
    first = started(home)
    again = SuperLink(home)
    assert not again.begin()
    again.wait()
    assert (again.pid(), again.address) == (first.pid(), first.address)
    assert urllib.request.urlopen(f"http://{again.address}/health").status == 200
    assert first.address in (first.home / "config.toml").read_text()
    pid = first.pid()
    assert pid is not None
    assert again.end()
    assert (again.pid(), again.end()) == (None, False)
    first.pid()  # takes notice of its dead child
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_each_project_has_its_own(home: Path, stub: Path) -> None:
    """Break it: name its folder by the project's last name only."""
    for name in ("a/app", "b/app"):
        (home / name).mkdir(parents=True)
    first, second = started(home / "a/app"), started(home / "b/app")
    assert first.address != second.address
    assert {found.project for found in running()} == {home / "a/app", home / "b/app"}
    assert first.end()
    assert second.pid() is not None


def test_one_command_ends_those_of_all_projects(
    home: Path, stub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Break it: end the first one only."""
    projects = [home / name for name in ("a", "b")]
    for project in projects:
        project.mkdir()
    links = [started(project) for project in projects]
    monkeypatch.setattr(sys, "argv", ["fedsplit", "stop", "--all"])
    with pytest.raises(SystemExit):
        main()
    said = sorted(capsys.readouterr().out.splitlines())
    assert said == [f"Ended the SuperLink of '{project}'." for project in projects]
    assert [link.pid() for link in links] == [None, None]


def test_where_nothing_ends_the_ones_that_run_are_named(
    home: Path, stub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config file outside an app runs in fedsplit's. Break it: name none."""
    for name in ("app", "elsewhere"):
        (home / name).mkdir()
    link = started(home / "app")
    monkeypatch.chdir(home / "elsewhere")
    monkeypatch.setattr(sys, "argv", ["fedsplit", "stop"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out == (
        f"No SuperLink of this project runs. One runs for '{home / 'app'}': 'fedsplit stop' in "
        "that folder ends it, or with --all.\n"
    )
    assert link.pid() is not None


def test_a_dead_one_is_replaced(home: Path, stub: Path) -> None:
    """Break it: trust superlink.json."""
    first = started(home)
    pid = first.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while first.pid() is not None:
        time.sleep(0.01)
    assert started(home).pid() not in (None, pid)


@pytest.mark.parametrize("dies_alone", [False, True])
def test_what_it_started_ends_with_it(home: Path, stub: Path, dies_alone: bool) -> None:
    """Break it: trust Ray's agents to notice that their parents are gone."""
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    child = f"[sys.executable, '-c', '{deaf}; time.sleep(600)']"
    # One without the mark, as Ray's agents that have overwritten their environment.
    start = f"subprocess.Popen({child}, env={{}}, stdout=subprocess.PIPE)"
    stub.write_text(
        stub.read_text().replace(
            "import http.server, sys",
            f"import http.server, subprocess, sys\nchild = {start}\nchild.stdout.readline()",
        )
    )
    first = started(home)
    pid = first.pid()
    assert pid is not None
    (left,) = psutil.Process(pid).children()
    sessions = first.sessions()
    assert sessions == {pid}
    if dies_alone:
        os.kill(pid, signal.SIGKILL)
        while first.pid() is not None:
            time.sleep(0.01)
        assert left.is_running()
        first.end_rest(sessions)
    else:
        assert first.end()
    assert psutil.wait_procs([left], timeout=5)[0] == [left]


def test_its_rest_is_found_in_one_look_at_all_processes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: list them for the mark, and once more for the sessions."""
    looks: list[int] = []
    look = psutil.process_iter

    def counted() -> Iterator[psutil.Process]:
        looks.append(1)
        return look()

    monkeypatch.setattr(psutil, "process_iter", counted)
    SuperLink(home).end_rest()
    assert len(looks) == 1


def test_one_that_hangs_is_noticed_within_10_seconds(home: Path, stub: Path) -> None:
    """Break it: wait for ever for an answer."""
    first = started(home)
    pid = first.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    again = SuperLink(home)
    assert not again.begin()
    with pytest.raises(RunError, match=rf"process {pid}.*does not answer.*fedsplit stop"):
        again.wait()
    assert time.monotonic() - begin < 10
    assert again.end()  # SIGTERM waits for a stopped process, SIGKILL does not


def test_one_that_another_command_has_just_started_gets_its_time(
    home: Path, stub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: give it the seconds of one that has started long ago."""
    monkeypatch.setattr(superlink, "_ANSWER_SECONDS", 0.2)
    stub.write_text(
        stub.read_text().replace(
            "import http.server, sys", "import http.server, sys, time; time.sleep(1.5)"
        )
    )
    assert SuperLink(home).begin()
    second = SuperLink(home)
    assert not second.begin()
    second.wait()
    assert second.pid() is not None


def test_one_of_another_environment_is_replaced(home: Path, stub: Path) -> None:
    """Break it: keep it, and its runs import the other environment's packages."""
    first = started(home)
    pid = first.pid()
    path = first.home / "superlink.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "environment": "/moved/away"}))
    second = SuperLink(home)
    assert second.begin()
    second.wait()
    assert second.pid() not in (None, pid)


def test_one_that_cannot_start_says_where_its_log_is(home: Path, stub: Path) -> None:
    stub.write_text("#!/bin/sh\necho broken; exit 3\n")
    found = SuperLink(home)
    assert found.begin()
    with pytest.raises(RunError, match=r"ended with status 3.*superlink\.log"):
        found.wait()
    assert "broken" in found.log_path.read_text()


def test_byte_code_is_kept_where_python_may_not_write_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: pass the variable on, and each process compiles torch again."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    env = SuperLink(home).environment()
    assert "PYTHONDONTWRITEBYTECODE" not in env
    assert env["PYTHONPYCACHEPREFIX"].startswith(str(home / "home"))
