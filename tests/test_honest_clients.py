"""Whole runs of honest clients whose models are unusual: nobody is refused.

A false refusal is as bad as a missed attack: it ends a run in which nothing is wrong.
"""

from __future__ import annotations

import pytest

from fedsplit import simulate

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


@pytest.mark.parametrize("num_clients", [1, 2, 3])
@pytest.mark.parametrize("strategy", ["sflv1", "sequential"])
@pytest.mark.parametrize(
    "model", ["zeros_in_bottom", "small_norm_in_bottom", "small_norm_in_top", "growing"]
)
@pytest.mark.parametrize("topology", ["vanilla", "u-shaped"])
def test_nobody_is_left_out(
    topology: str, model: str, strategy: str, num_clients: int, tiny: dict[str, object]
) -> None:
    """Their smashed data become larger than the initial ones by factors of 15 to 500.

    Break it: let `Magnitudes` take the median over all, let its `smallest` be 0.001, or measure
    the initial ones in eval mode only; let `UpdateNorms` compare a run's only client with itself.
    """
    result = simulate(
        tiny,
        strategy=strategy,
        num_clients=num_clients,
        num_server_rounds=2,
        model_name=f"tests.small_models:make_{model}",
        split_topology=topology,
        learning_rate=0.05 if model == "growing" else 0.003,
        local_epochs=3 if model == "growing" else 1,
        last_batch="merge",  # a norm cannot train on one image
    )
    assert [row["failed_clients"] for row in result.rounds] == [[], []]
