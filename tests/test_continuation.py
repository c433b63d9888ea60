"""A run continued from its state after some round is the run that was never interrupted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedsplit import Config
from fedsplit.inprocess import run_in_process
from fedsplit.server_app import Continuation
from fedsplit.snapshot import Snapshot, from_bytes, to_bytes
from tests.conftest import TINY, Run, distance, weights

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]

RUNS: dict[str, dict[str, object]] = {
    "full, FedAdam": {"strategy": "full", "aggregation.name": "FedAdam"},
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
    "sflv3, kept optimizers": {
        "strategy": "sflv3",
        "client-optimizer": "kept",
        "fraction-train": 0.75,
    },
    "parallel": {"strategy": "parallel", "learning-rate-schedule": "cosine"},
    "sequential": {"strategy": "sequential"},
    "centralized": {"strategy": "centralized"},
    "local loss": {"strategy": "tests.extensions.local_loss:LocalLoss"},
}


@pytest.mark.parametrize("keys", RUNS.values(), ids=RUNS)
def test_a_continued_run_ends_bit_for_bit_as_an_unbroken_one(
    tiny: dict[str, object], keys: dict[str, object]
) -> None:
    """The state goes through bytes, as a file would hold it.

    Break it: leave the optimizer, the aggregator, the clients or the recorder out of the state.
    """
    config = Config.load(tiny, {**keys, "num-server-rounds": 3})
    kept: dict[int, bytes] = {}

    def keep(server_round: int, state: Callable[[], Snapshot]) -> None:
        kept[server_round] = to_bytes(state())

    unbroken = run_in_process(config, Continuation(keep=keep))
    assert sorted(kept) == [1, 2, 3]
    continued = run_in_process(config, Continuation(from_bytes(kept[2])))

    assert distance(weights(unbroken), weights(continued)) == 0.0
    timeless = [key for key in unbroken.rounds[0] if not key.endswith("seconds")]
    for one, other in zip(unbroken.rounds, continued.rounds, strict=True):
        assert {key: one[key] for key in timeless} == {key: other[key] for key in timeless}
    for key in ("initial_accuracy", "final_accuracy", "best_accuracy", "finished_rounds"):
        assert unbroken.summary[key] == continued.summary[key]
    assert continued.summary["cut_uplink_bytes"] == unbroken.summary["cut_uplink_bytes"]


def test_keeping_the_state_changes_nothing(run: Run, tiny: dict[str, object]) -> None:
    """Break it: let `state_dict` return the optimizer's own tensors, changed while written."""
    plain = run(strategy="sflv2")
    config = Config.load(TINY, {**tiny, "strategy": "sflv2"})
    keeping = Continuation(keep=lambda server_round, state: to_bytes(state()))
    watched = run_in_process(config, keeping)
    assert distance(weights(plain), weights(watched)) == 0.0
