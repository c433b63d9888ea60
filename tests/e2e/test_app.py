"""The app under Flower's Simulation Engine: as it comes, and against the in-process engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fedsplit import simulate
from tests.e2e.flower import Flower, FlowerRun, fedsplit_run
from tests.e2e.runs import (
    APP_DIR,
    REFUSED_TEXT,
    UNEVEN,
    RunFiles,
    assert_same_weights,
    run_directory_of,
)

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

UNSPLIT = UNEVEN | {"strategy": "full"}


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def ten_clients(flower: Flower, output_dir: Path) -> subprocess.CompletedProcess[str]:
    """Run ``fedsplit run . --num-clients 10``, with nothing said of an engine."""
    settings = [f"--set={key}={value}" for key, value in (UNEVEN | {"run-name": "ten"}).items()]
    command = fedsplit_run(str(APP_DIR), "--num-clients", "10", *settings)
    command += ["--output-dir", str(output_dir)]
    flower.need_worker()
    return flower.call(command, timeout_seconds=400.0, merge=False)


@pytest.fixture(scope="module")
def as_it_comes(flower: Flower) -> FlowerRun:
    """Run ``flwr run . --stream``, with an environment of the run's own, and an unsplit model."""
    return flower.run(APP_DIR, federation="", run_config=UNSPLIT, install=True)


def test_fedsplit_run_trains_ten_clients(
    ten_clients: subprocess.CompletedProcess[str], output_dir: Path
) -> None:
    assert ten_clients.returncode == 0, ten_clients.stdout + ten_clients.stderr
    assert run_directory_of(ten_clients.stdout) == output_dir / "ten"
    assert "Test accuracy" in ten_clients.stdout

    run = RunFiles.read(output_dir / "ten")
    assert run.summary["engine"] == "flower"
    assert run.summary["strategy"] == "sflv1"  # the app's own default
    assert run.summary["num_clients"] == 10
    assert [row["failed_clients"] for row in run.rounds] == [[], []]
    assert [row["num_participants"] for row in run.rounds] == [10, 10]


def test_sflv1_ends_with_the_same_bits_and_bytes_in_both_engines(
    ten_clients: subprocess.CompletedProcess[str], output_dir: Path, tmp_path: Path
) -> None:
    here = simulate(UNEVEN, num_clients=10, output_dir=str(tmp_path), max_concurrent_clients=4)

    there = RunFiles.read(output_dir / "ten")
    assert_same_weights(there.weights, RunFiles.read(here.run_dir).weights)
    assert there.num_bytes == RunFiles.read(here.run_dir).num_bytes
    assert all(count > 0 for count in there.num_bytes.values())
    assert there.summary["final_loss"] == here.summary["final_loss"]


def test_flwr_run_alone_shows_the_results_and_where_they_are(as_it_comes: FlowerRun) -> None:
    assert as_it_comes.completed, as_it_comes.output
    run = RunFiles.read(run_directory_of(as_it_comes.output))
    assert run.summary["num_clients"] == 2
    assert run.summary["strategy"] == "full"
    assert f"{run.summary['final_accuracy']:.4f} final" in as_it_comes.output


def test_full_ends_with_the_same_bits_and_bytes_in_both_engines(
    as_it_comes: FlowerRun, tmp_path: Path
) -> None:
    there = RunFiles.read(run_directory_of(as_it_comes.output))
    here = simulate(UNSPLIT, num_clients=2, output_dir=str(tmp_path))

    assert_same_weights(there.weights, RunFiles.read(here.run_dir).weights)
    assert there.num_bytes == RunFiles.read(here.run_dir).num_bytes
    assert there.num_bytes["cut_uplink_bytes"] == 0 < there.num_bytes["sync_uplink_bytes"]


def test_the_streamed_log_is_lines_for_a_person(as_it_comes: FlowerRun) -> None:
    assert [text for text in REFUSED_TEXT if text in as_it_comes.output] == []
    assert "round     loss     acc" in as_it_comes.output  # the header of the progress lines


def test_sflv2_ends_with_the_same_bits_and_bytes_in_both_engines(
    flower: Flower, tmp_path: Path
) -> None:
    """Clients that wait for each other: more of them than Flower's own thread pool serves.

    The pool has Python's default size, the machine's cores and 4 more threads. Every client is a
    process that imports torch, so here that size is 2 (see narrow/sitecustomize.py).
    sflv3, whose clients keep what Flower's state carries, is in test_failures.py.
    Break it: do not call `widen_simulation`.
    """
    clients = 3
    config = UNEVEN | {"strategy": "sflv2", "channel.join-timeout": 240.0}
    run = flower.run(
        APP_DIR,
        federation=f"num-supernodes={clients} client-resources-num-cpus=1 "
        f"init-args-num-cpus={clients}",
        run_config=config | {"output-dir": str(tmp_path), "run-name": "there"},
        pythonpath=Path(__file__).with_name("narrow"),
    )
    assert run.completed, run.output
    here = simulate(config, num_clients=clients, output_dir=str(tmp_path / "here"))

    there = RunFiles.read(tmp_path / "there")
    assert there.summary["strategy"] == "sflv2"
    assert_same_weights(there.weights, RunFiles.read(here.run_dir).weights)
    assert there.num_bytes == RunFiles.read(here.run_dir).num_bytes
