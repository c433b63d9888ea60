from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedsplit import Config, flower_run, participants
from fedsplit.data.catalog import forget, images_key, load_images
from fedsplit.errors import ConfigError, InterruptionError, RunError
from fedsplit.flower_run import federation_config, run_with_flower
from fedsplit.results.run_directory import RunDirectory
from fedsplit.run_log import early_warnings as caught_early
from tests.data.pictures import image_folder


@pytest.mark.parametrize(
    ("clients", "at_once", "cores", "expected"),
    [
        (10, 0, 2, "num-supernodes=10 client-resources-num-cpus=1 init-args-num-cpus=2"),
        (10, 4, 2, "num-supernodes=10 client-resources-num-cpus=1 init-args-num-cpus=4"),
        (3, 0, 8, "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=3"),
        (3, 99, 2, "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=3"),
    ],
)
def test_a_federation_fits_the_config(
    monkeypatch: pytest.MonkeyPatch, clients: int, at_once: int, cores: int, expected: str
) -> None:
    monkeypatch.setattr(participants, "available_cores", lambda: cores)
    config = Config.from_flat({"num-clients": clients, "max-concurrent-clients": at_once})
    assert federation_config(config) == expected


@pytest.mark.parametrize(("strategy", "at_once"), [("sflv2", 5), ("parallel", 5), ("sflv1", 2)])
def test_strategies_that_go_step_by_step_have_all_participants_at_once(
    monkeypatch: pytest.MonkeyPatch, strategy: str, at_once: int
) -> None:
    monkeypatch.setattr(participants, "available_cores", lambda: 2)
    config = Config.from_flat({"strategy": strategy, "num-clients": 10, "fraction-train": 0.5})
    assert federation_config(config).endswith(f"init-args-num-cpus={at_once}")


FLWR = """#!{python}
import json, os, sys, tomllib, time
from pathlib import Path

record = Path({record!r})
calls = json.loads(record.read_text()) if record.exists() else []
called = {{"arguments": sys.argv[1:], "home": os.environ.get("FLWR_HOME")}}
if sys.argv[1] == "run":
    given = Path(sys.argv[sys.argv.index("--run-config") + 1])
    called["values"] = tomllib.loads(given.read_text(encoding="utf-8"))
    run_dir = Path(called["values"]["output-dir"]) / called["values"]["run-name"]
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.toml").write_text("")
    if {summary}:
        (run_dir / "summary.json").write_text("{{}}")
record.write_text(json.dumps([*calls, called]))
print("Using SuperLink: project")
print("Successfully started run 77", flush=True)
for line in {lines!r}:
    print(line)
if sys.argv[1] == "run" and {endless}:
    time.sleep(60)
sys.exit({status})
"""


class _SuperLink:
    """Stands in for the SuperLink of a project."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.log_path = project / "superlink.log"
        self.said: list[str] = []
        self.address = "127.0.0.1:7"

    def begin(self) -> bool:
        self.said.append("begin")
        return True

    def wait(self) -> None:
        self.said.append("wait")

    def end(self) -> bool:
        self.said.append("end")
        return True

    def sessions(self) -> frozenset[int]:
        return frozenset([7])

    def end_rest(self, sessions: frozenset[int]) -> None:
        self.said.append(f"end rest of {set(sessions)}")

    def pid(self) -> int | None:
        return 7

    def environment(self) -> dict[str, str]:
        return {**os.environ, "FLWR_HOME": "the project's"}


class _Flwr:
    """Stands in for the command `flwr`."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
        *,
        status: int = 0,
        summary: bool = True,
        endless: bool = False,
        lines: Sequence[str] = (),
    ) -> None:
        self.record = folder / "calls.json"
        program = folder / "flwr"
        text = FLWR.format(
            python=sys.executable,
            record=str(self.record),
            summary=summary,
            status=status,
            endless=endless,
            lines=list(lines),
        )
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setattr(flower_run, "program", lambda name: str(folder / name))
        self.superlinks: list[_SuperLink] = []
        monkeypatch.setattr(flower_run, "SuperLink", self._superlink)

    def _superlink(self, project: Path) -> _SuperLink:
        self.superlinks.append(_SuperLink(project))
        return self.superlinks[-1]

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What it was called with, in order."""
        return json.loads(self.record.read_text()) if self.record.exists() else []


def test_the_command_is_flwr_run(
    tiny: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    flwr = _Flwr(monkeypatch, tmp_path, lines=["Run directory: \u20ac"])
    config = Config.load(tiny)
    run_with_flower(config, app_dir=tmp_path)

    (called,) = flwr.calls
    arguments = called["arguments"]
    assert arguments == [
        *("run", str(tmp_path), "--stream"),
        *("--run-config", arguments[4], "--federation-config"),
        "num-supernodes=4 client-resources-num-cpus=1 init-args-num-cpus=2",
    ]
    assert called["home"] == "the project's"
    assert flwr.superlinks[0].said == ["begin", "wait"]
    assert not Path(arguments[4]).parent.exists()
    sent = Config.from_flat(called["values"])
    assert sent.run_name.startswith("sflv1-fashion-mini-")
    assert sent == Config.load(config, {"run-name": sent.run_name})
    assert capfdbinary.readouterr().out == (
        b"Starting 4 clients in Flower (SuperLink 127.0.0.1:7) ...\nRun directory: \xe2\x82\xac\n"
    )


@pytest.mark.parametrize(("status", "summary"), [(1, True), (0, False)])
def test_a_run_that_did_not_finish_is_an_error(
    tiny: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    status: int,
    summary: bool,
) -> None:
    _Flwr(monkeypatch, tmp_path, status=status, summary=summary)
    with pytest.raises(RunError, match=r"'lost' did not finish.*runs/lost") as caught:
        run_with_flower(Config.load(tiny, {"run-name": "lost"}), app_dir=Path())
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("summary", [True, False])
def test_a_run_that_cannot_be_lengthened_keeps_its_summary(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, summary: bool
) -> None:
    """Break it: take the earlier summary for the new one, or remove it first."""
    run_dir = Path(str(tiny["output-dir"])) / "done"
    run_dir.mkdir(parents=True)
    (run_dir / "summary.json").write_text('{"earlier": 1}')
    _Flwr(monkeypatch, tmp_path, summary=summary)
    longer = Config.load(tiny, {"run-name": "done", "resume": str(run_dir)})
    if summary:
        run_with_flower(longer, app_dir=Path())
    else:
        with pytest.raises(RunError, match="'done' did not finish"):
            run_with_flower(longer, app_dir=Path())
    kept = (run_dir / "summary.json").read_text()
    assert (kept == '{"earlier": 1}') == (not summary)


def test_how_to_continue_is_said_once(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Break it: say it again after the error that ends with it."""
    config = Config.load(tiny, {"run-name": "lost"})
    how = RunDirectory(Path(config.output_dir) / "lost")
    how.path.mkdir(parents=True)
    how.config_path.write_text("")
    said = how.how_to_continue()
    shutil.rmtree(how.path)
    _Flwr(monkeypatch, tmp_path, status=1, summary=False, lines=[f"ERROR :     Broken. {said}"])
    with pytest.raises(RunError, match=r"the lines above say why\.") as caught:
        run_with_flower(config, app_dir=Path())
    assert said not in str(caught.value)


def test_ctrl_c_stops_the_run_and_not_only_its_log(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Break it: end the command `flwr run` only, and the run goes on in the background."""
    flwr = _Flwr(monkeypatch, tmp_path, endless=True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    run_dir = Path(str(tiny["output-dir"])) / "one"
    main = threading.current_thread()

    def interrupt() -> None:
        while not (run_dir / "summary.json").exists():
            time.sleep(0.02)
        time.sleep(0.3)
        assert main.ident is not None
        signal.pthread_kill(main.ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    holder = _holder_of(run_dir)
    with pytest.raises(InterruptionError, match=r"Interrupted\. No round is kept") as caught:
        run_with_flower(Config.load(tiny, {"run-name": "one"}), app_dir=Path())
    signal.signal(signal.SIGINT, before)
    thread.join()
    assert caught.value.exit_code == 130
    assert flwr.calls[-1]["arguments"] == ["stop", "77"]
    assert holder.wait(10) == -signal.SIGINT  # the process that makes the run was told at once


def _holder_of(run_dir: Path) -> subprocess.Popen[bytes]:
    """Start a process that takes the lock of a run directory as soon as it exists."""
    program = (
        "import signal, time; from pathlib import Path; from fedsplit.locks import FileLock\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        f"path = Path({str(run_dir)!r})\n"
        "while not path.exists(): time.sleep(0.005)\n"
        "lock = FileLock.take(path / '.lock'); time.sleep(60)"
    )
    return subprocess.Popen([sys.executable, "-c", program])


def test_what_cannot_run_does_not_start_flower(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flwr = _Flwr(monkeypatch, tmp_path)
    config = Config.load(tiny, {"batch-size": 99, "last-batch": "drop"})
    with pytest.raises(ConfigError, match="client 0 has nothing to train on"):
        run_with_flower(config, app_dir=Path())
    assert flwr.calls == []
    assert flwr.superlinks[0].said == ["begin", "end"]


LINES = [
    "\x1b[92mINFO \x1b[0m:      [ROUND 1/3]",
    "\x1b[93mWARNING \x1b[0m:   Since flwr 1.32, default simulated SuperNodes changed.",
    "\x1b[36m(ClientAppActor pid=9)\x1b[0m something that a client printed",
    "  1/3  0.5",
    "Warning: client 3 failed",
    "\x1b[91mERROR \x1b[0m:     the app is wrong",
    "printed by the app",
]


@pytest.mark.parametrize(
    ("console", "shown"),
    [
        ("normal", [*LINES[3:5], "Error: the app is wrong", LINES[6]]),
        ("quiet", [LINES[4], "Error: the app is wrong"]),
    ],
)
def test_flowers_own_lines_go_to_a_file(
    tiny: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    console: str,
    shown: list[str],
) -> None:
    """Break it: show every line, or keep the errors back."""
    _Flwr(monkeypatch, tmp_path, lines=LINES)
    config = Config.load(tiny, {"run-name": "one", "console": console})
    run_dir = run_with_flower(config, app_dir=tmp_path)
    lines = [line for line in capfd.readouterr().out.splitlines() if "Starting" not in line]
    assert lines == shown
    kept = (run_dir / "flower.txt").read_text(encoding="utf-8").splitlines()
    assert kept[:2] == ["Using SuperLink: project", "Successfully started run 77"]
    assert kept[2] == "INFO :      [ROUND 1/3]"
    assert len(kept) == 2 + len(LINES)


PANEL = [
    "\x1b[91mERROR \x1b[0m:     Exit Code: 700",
    "",
    "An unhandled exception occurred when running the simulation.",
    "",
    "For more information, visit: <https://flower.ai/docs/700.html>",
]


def test_an_error_stands_once_on_the_console(
    tiny: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Break it: show Flower's panel, or what it says again."""
    error = "\x1b[91mERROR \x1b[0m:     the image is broken"
    lines = [error, error, *PANEL, "printed by the app"]
    _Flwr(monkeypatch, tmp_path, lines=lines, status=1)
    config = Config.load(tiny, {"run-name": "one"})
    with pytest.raises(RunError, match="the lines above say why"):
        run_with_flower(config, app_dir=tmp_path)
    said = [line for line in capfd.readouterr().out.splitlines() if "Starting" not in line]
    assert said == ["Error: the image is broken", "printed by the app"]
    kept = (Path(config.output_dir) / "one" / "flower.txt").read_text(encoding="utf-8")
    assert kept.count("the image is broken") == 2
    assert PANEL[-1] in kept


def test_a_panel_without_an_error_before_it_is_shown(
    tiny: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Break it: hide every panel; the run then ends without a reason."""
    _Flwr(monkeypatch, tmp_path, lines=PANEL, status=1)
    with pytest.raises(RunError):
        run_with_flower(Config.load(tiny), app_dir=tmp_path)
    assert "Error: Exit Code: 700" in capfd.readouterr().out


def test_a_warning_of_the_checks_is_not_shown_again_by_the_run(
    tiny: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Break it: forget what the checks have shown."""
    folder = image_folder(tmp_path / "own", {"a": 30, "b": 30})
    (folder / "a" / "007.png").write_bytes(b"no image")
    own = {"data.name": str(folder), "data.on-error": "skip", "data.partitioner": "iid"}
    config = Config.load(tiny, own)
    with caught_early() as warned:
        load_images(config.data)
    assert len(warned) == 1
    forget(images_key(config.data).source)
    capfd.readouterr()
    others = ["Warning: another one"]
    _Flwr(monkeypatch, tmp_path, lines=[f"Warning: {warned[0]}", *others])
    run_with_flower(config, app_dir=tmp_path)
    out, err = capfd.readouterr()
    assert err.splitlines() == [f"Warning: {warned[0]}"]
    assert [line for line in out.splitlines() if "Starting" not in line] == others


def test_a_superlink_that_dies_is_named(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Break it: only say that the run did not finish."""
    flwr = _Flwr(monkeypatch, tmp_path, status=1)
    monkeypatch.setattr(_SuperLink, "pid", lambda self: None)
    with pytest.raises(
        RunError, match=r"because the project's SuperLink has ended.*superlink\.log"
    ):
        run_with_flower(Config.load(tiny), app_dir=tmp_path)
    assert flwr.superlinks[0].said[-1] == "end rest of {7}"


def test_a_connection_of_flowers_configuration_is_used_as_it_is(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flwr = _Flwr(monkeypatch, tmp_path)
    run_with_flower(Config.load(tiny), app_dir=tmp_path, superlink="site")
    assert flwr.calls[0]["arguments"][:4] == ["run", str(tmp_path), "site", "--stream"]
    assert flwr.superlinks == []
