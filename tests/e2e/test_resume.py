"""Processes that are killed under Flower: a worker costs nothing, and the run is resumed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsplit import simulate
from tests.e2e.flower import Flower, fedsplit_run
from tests.e2e.processes import processes_of
from tests.e2e.runs import APP_DIR, UNEVEN, RunFiles, assert_same_weights

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

CLIENTS = 4
KEYS = UNEVEN | {
    "strategy": "sflv3",
    "client-optimizer": "kept",
    "fraction-train": 0.75,
    "num-server-rounds": 4,
    "local-epochs": 2,
}


def test_a_killed_worker_and_a_killed_server_change_no_bit(flower: Flower, tmp_path: Path) -> None:
    """What sflv3's clients keep is lost with the run, and comes back out of the checkpoint.

    Break it: give clients nothing back.
    """
    directory = tmp_path / "there"
    settings = [f"--set={key}={value}" for key, value in (KEYS | {"run-name": "there"}).items()]
    command = fedsplit_run(str(APP_DIR), f"--num-clients={CLIENTS}", *settings)
    flower.need_worker()
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(
            [*command, "--output-dir", str(tmp_path)],
            env=flower.env,
            cwd=flower.home,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for(lambda: _rounds(directory) >= 1, first, tmp_path / "log")
            workers = processes_of(flower.home, "ray::ClientAppActor")
            os.kill(min(workers), signal.SIGKILL)
            _wait_for(lambda: _rounds(directory) >= 2, first, tmp_path / "log")
            (engine,) = processes_of(flower.home, "flwr-simulation")
            os.kill(engine, signal.SIGKILL)
        finally:
            first.kill()
            first.wait()
    assert not (directory / "summary.json").exists()
    shutil.copytree(directory, tmp_path / "copy")
    done = flower.call(
        fedsplit_run("--resume", str(directory)),
        timeout_seconds=400,
        merge=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    here = RunFiles.read(simulate(KEYS, num_clients=CLIENTS, output_dir=str(tmp_path)).run_dir)
    there = RunFiles.read(directory)
    assert_same_weights(there.weights, here.weights)
    in_process = RunFiles.read(simulate(resume=tmp_path / "copy").run_dir)  # the other engine
    assert_same_weights(in_process.weights, here.weights)
    assert there.num_bytes == here.num_bytes
    assert there.clients == here.clients == in_process.clients
    assert [row["failed_clients"] for row in there.rounds] == [[]] * 4
    assert sum(row["resent_bytes"] for row in there.rounds) > 0
    for row, unbroken in zip(there.rounds, here.rounds, strict=True):
        for key in ("train_loss", "test_loss", "validation_loss", "kept_uplink_bytes"):
            assert row[key] == unbroken[key]


def _rounds(directory: Path) -> int:
    try:
        return (directory / "rounds.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
