from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsplit import simulate
from fedsplit.compare.worker import WorkerProcess
from fedsplit.config import Config
from fedsplit.errors import RunError
from fedsplit.results.run_directory import RunDirectory
from tests.preloaded import Process, server

ROOT = Path(__file__).parents[2]
TEXT = """
name = "killed"
seeds = [7]
[base]
num-clients = 3
num-server-rounds = 4
batch-size = 8
data.max-train-samples = 120
data.max-test-samples = 50
[[variants]]
label = "v1"
[[variants]]
label = "v2"
strategy = "sflv2"
[[variants]]
label = "full"
strategy = "full"
"""


def wait_for(condition: Callable[[], bool], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_worker_reports_errors_and_lives_until_it_is_stopped(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    worker = WorkerProcess(lock)
    try:
        with pytest.raises(RunError, match=r"nowhere\.toml' cannot be read"):
            worker.run(tmp_path / "nowhere.toml", tmp_path / "log")
        assert "ConfigError" in (tmp_path / "log").read_text()
        assert worker.is_alive()
    finally:
        worker.stop()
        os.close(lock)
    assert not worker.is_alive()
    with pytest.raises(RunError, match=r"ended by signal 9.*If memory ran out"):
        worker.run(tmp_path / "nowhere.toml", tmp_path / "log")


def start(config: Path, output_dir: Path, *more: str) -> Process:
    arguments = ("compare", str(config), "--output-dir", str(output_dir), *more)
    return server().start(["-c", "from fedsplit.cli import main; main()", *arguments], cwd=ROOT)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_comparison_continues_with_the_same_results(
    tmp_path: Path,
) -> None:
    config = tmp_path / "killed.toml"
    config.write_text(TEXT)
    directory = tmp_path / "killed"
    first, second = (directory / "runs" / f"{label}-seed7" for label in ("v1", "v2"))
    process = start(config, tmp_path)
    try:
        checkpoints = RunDirectory(second).checkpoints
        wait_for(lambda: bool(checkpoints.rounds()) or process.poll() is not None)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (first / "summary.json").is_file()
    assert not (second / "summary.json").exists()
    inode = second.stat().st_ino
    finished = (first / "summary.json").stat().st_mtime_ns

    # Start at once: a worker that still runs would hold the lock.
    wait_for(lambda: _unlocked(directory), 10)
    again = start(config, tmp_path, "--jobs", "2")
    out, err = again.communicate()

    assert again.returncode == 0, err
    assert "3 runs, 1 of them already finished, 2 at a time" in err
    assert (first / "summary.json").stat().st_mtime_ns == finished
    assert second.stat().st_ino == inode  # it continued, and did not begin again
    assert out.splitlines()[-1] == str(directory / "report.html")
    for path in sorted((directory / "runs").iterdir()):
        kept = Config.load(path / "config.toml")
        alone = simulate(kept, output_dir=str(tmp_path / "alone"), max_concurrent_clients=3)
        saved = Path("model") / "model.safetensors"
        assert (path / saved).read_bytes() == (alone.run_dir / saved).read_bytes(), path
        summary = json.loads((path / "summary.json").read_text())
        timed = ("second", "run_directory", "resent_bytes", "started_at", "commit")
        same = [key for key in summary if not any(word in key for word in timed)]
        assert {key: summary[key] for key in same} == {key: alone.summary[key] for key in same}


def _unlocked(directory: Path) -> bool:
    import fcntl

    with (directory / ".lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
