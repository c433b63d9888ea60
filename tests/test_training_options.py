"""Losses, learning rates and steps that fine-tuning uses mean the same under every strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedsplit import simulate
from fedsplit.errors import ConfigError
from tests.conftest import TINY, Run, distance, weights

pytestmark = pytest.mark.usefixtures("undrawn")

OPTIONS: dict[str, dict[str, Any]] = {
    "label smoothing": {"loss_label_smoothing": 0.3},
    "class weights": {"loss_class_weights": "balanced"},
    "layer decay": {"layer_decay": 0.5},
    "accumulation": {"accumulate_batches": 5},  # of 36 batches of one client: a rest of 1
}
ALL = {key: value for keys in OPTIONS.values() for key, value in keys.items()}


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_sflv1_equals_full_and_both_differ_from_the_plain_run(run: Run, option: str) -> None:
    """Break it: leave the option out on one side."""
    keys = OPTIONS[option]
    split, full = run(**keys), run(**keys, strategy="full")
    assert distance(weights(split), weights(full)) < 1e-5
    assert distance(weights(split), weights(run())) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["vanilla", "u-shaped"])
@pytest.mark.parametrize("strategy", ["sflv1", "sflv2", "sflv3", "parallel", "sequential"])
def test_with_one_client_every_strategy_trains_as_the_whole_model(
    run: Run, strategy: str, topology: str
) -> None:
    """Break it: leave the class weights out of the messages to the clients, or a last step."""
    one = {"num_clients": 1, "num_server_rounds": 1}
    split = run(**one, **ALL, strategy=strategy, split_topology=topology)
    full = run(**one, **ALL, strategy="full")
    assert distance(weights(split), weights(full)) < 1e-5
    assert distance(weights(full), weights(run(**one, strategy="full"))) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["centralized", "full", "parallel", "sflv1"])
def test_accumulated_batches_train_as_one_batch_of_their_size(run: Run, strategy: str) -> None:
    """Break it: take the mean over batches, or forget the step at the end of a round."""
    one = {"local_epochs": 1, "strategy": strategy}
    small = run(**one, batch_size=4, accumulate_batches=3)
    large = run(**one, batch_size=12)
    assert distance(weights(small), weights(large)) < 1e-5
    assert distance(weights(small), weights(run(**one, batch_size=4))) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sflv2", "parallel", "sequential"])
def test_a_run_with_batches_left_at_the_end_of_a_round_resumes(run: Run, strategy: str) -> None:
    """Break it: carry gradients from one round to the next, which no checkpoint has."""
    keys = {"strategy": strategy, "accumulate_batches": 7}
    unbroken = run(**keys, num_server_rounds=3)
    resumed = simulate(resume=run(**keys, num_server_rounds=2).run_dir, num_server_rounds=3)
    assert distance(weights(resumed), weights(unbroken)) == 0.0


def test_memory_counts_the_gradients_that_are_kept(run: Run) -> None:
    plain, kept = run().summary, run(accumulate_batches=3).summary
    trained = 4 * plain["client_trainable_parameters"]
    assert kept["client_memory_bytes"] == plain["client_memory_bytes"] + trained


def test_a_run_ends_when_the_score_has_not_improved(tmp_path: Path) -> None:
    """Break it: count from the first round, or leave out the last round's checkpoint."""
    keys = {
        **TINY,
        "output-dir": str(tmp_path),
        "run-name": "stopped",
        "learning-rate": 1e-9,  # so that no score changes
        "data.max-train-samples": 100,
        "num-server-rounds": 6,
        "patience": 2,
        "monitor": "validation-accuracy",
        "checkpoint-every": 5,
    }
    stopped = simulate(keys)
    assert stopped.summary["finished_rounds"] == len(stopped.rounds) == 3
    assert stopped.summary["stopped_early"] is True
    assert stopped.summary["best_round"] == 1
    assert [path.name for path in Path(stopped.run_dir, "checkpoints").iterdir()] == [
        "round-000003.safetensors"
    ]
    with pytest.raises(ConfigError, match=r"ended early after round 3.*more patience"):
        simulate(resume=stopped.run_dir)
    more = simulate(resume=stopped.run_dir, patience=3)
    assert more.summary["finished_rounds"] == 4
    assert more.rounds[:3] == stopped.rounds


def test_the_best_round_is_that_of_the_monitored_score(run: Run) -> None:
    result = run(num_server_rounds=4, monitor="validation-loss", learning_rate=0.3)
    losses = [row["validation_loss"] for row in result.rounds]
    best = result.summary["best_round"]
    assert losses[best - 1] == min(losses)
    assert result.summary["best_accuracy"] == result.rounds[best - 1]["test_accuracy"]
    assert result.summary["stopped_early"] is False


@pytest.mark.parametrize(
    "keys",
    [
        {"fraction-evaluate": 0.0},
        {"data.validation-fraction": 0.0},
        {"data.validation-fraction": 0.001},  # of 160 images
    ],
)
def test_a_score_that_no_round_has_is_refused(
    tiny: dict[str, object], keys: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="monitor = 'validation-loss' needs the clients"):
        simulate({**tiny, "monitor": "validation-loss", **keys})
