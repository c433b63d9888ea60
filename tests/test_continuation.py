"""A run that continues from a checkpoint is the run that was never interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedsplit import Result, simulate
from fedsplit.results.run_directory import RunDirectory
from tests.conftest import Run, distance, weights

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]

RUNS: dict[str, dict[str, object]] = {
    "full, FedAdam": {"strategy": "full", "aggregation.name": "FedAdam"},
    "full, LoRA, kept optimizers": {
        "strategy": "full",
        "split.trainable": "lora",
        "client-optimizer": "kept",
        "optimizer": "adam",
        "learning-rate": 0.002,
        "fraction-train": 0.5,
    },
    "sflv1, FedAvgM": {
        "strategy": "sflv1",
        "aggregation.name": "FedAvgM",
        "aggregation.options": "server-momentum = 0.5",
    },
    "sflv1, FedYogi, u-shaped": {
        "strategy": "sflv1",
        "aggregation.name": "FedYogi",
        "split.topology": "u-shaped",
    },
    "sflv2": {"strategy": "sflv2", "optimizer": "adam", "learning-rate": 0.002},
    "sflv2, LoRA, step schedule": {
        "strategy": "sflv2",
        "split.trainable": "lora",
        "learning-rate-schedule": "step",
        "decay-rounds": 1,
    },
    "sflv3, kept optimizers": {
        "strategy": "sflv3",
        "client-optimizer": "kept",
        "fraction-train": 0.75,
    },
    "sflv3, half of the clients": {"strategy": "sflv3", "fraction-train": 0.5},
    "parallel": {"strategy": "parallel", "learning-rate-schedule": "cosine"},
    "sequential": {"strategy": "sequential", "client-optimizer": "kept"},
    "centralized": {"strategy": "centralized", "optimizer": "adam", "learning-rate": 0.002},
    "local loss": {"strategy": "tests.extensions.local_loss:LocalLoss"},
}


def killed_after(server_round: int, finished: Result, folder: Path) -> Path:
    """Return a copy of a run's directory as it was after a round, before anything later."""
    directory = RunDirectory(shutil.copytree(finished.run_dir, folder / "killed"))
    directory.checkpoints.remove_after(server_round)
    directory.summary_path.unlink()
    shutil.rmtree(directory.model_dir)
    shutil.rmtree(directory.best_dir)
    return directory.path


def assert_same_results(unbroken: Result, continued: Result) -> None:
    """Compare everything but times, and what had to be sent again."""
    assert distance(weights(unbroken), weights(continued)) == 0.0
    apart = ("resent_bytes", "run_directory", "started_at", "commit")
    for one, other in [
        *zip(unbroken.rounds, continued.rounds, strict=True),
        (unbroken.summary, continued.summary),
    ]:
        keys = [key for key in one if "second" not in key and key not in apart]
        assert {key: one[key] for key in keys} == {key: other[key] for key in keys}
    paths = [RunDirectory(result.run_dir).client_results_path for result in (unbroken, continued)]
    assert paths[0].read_text() == paths[1].read_text()


@pytest.mark.parametrize("keys", RUNS.values(), ids=RUNS)
def test_a_continued_run_ends_bit_for_bit_as_an_unbroken_one(
    run: Run, tmp_path: Path, keys: dict[str, object]
) -> None:
    """Break it: leave the optimizer, the aggregator, the clients or the recorder out."""
    unbroken = run(**{"num-server-rounds": 3, **keys})
    continued = simulate(resume=killed_after(2, unbroken, tmp_path))
    assert_same_results(unbroken, continued)


def test_writing_checkpoints_changes_nothing(run: Run) -> None:
    """Break it: let `state_dict` return the optimizer's own tensors, changed while written."""
    plain, watched = run(strategy="sflv2", checkpoint_every=0), run(strategy="sflv2")
    assert not (plain.run_dir / "checkpoints").exists()
    assert distance(weights(plain), weights(watched)) == 0.0
