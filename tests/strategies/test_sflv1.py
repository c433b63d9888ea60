from __future__ import annotations

import pytest

from tests.conftest import Run, distance, weights
from tests.strategies import by_hand

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


def test_each_participant_trains_its_own_copy_of_the_server_part(
    run: Run, plain_threads: None
) -> None:
    """Break it: average the copies without weights, or let all train one copy."""
    images, parts = by_hand.shards(), by_hand.initial_parts()
    rest = parts.server_part()
    for server_round in by_hand.ROUNDS:
        bottoms, rests = by_hand.copies(parts.bottom), by_hand.copies(rest)
        for client in by_hand.CLIENTS:
            optimizer = by_hand.sgd(bottoms[client], rests[client])
            for batch in by_hand.batches_of(images[client], client, server_round):
                by_hand.descend(by_hand.loss_of(bottoms[client], rests[client], batch), optimizer)
        by_hand.average_into(parts.bottom, bottoms, images)
        by_hand.average_into(rest, rests, images)
    assert distance(weights(run()), parts.merge().state_dict()) < 1e-6


@pytest.mark.parametrize("top_layer", [0, 3])
def test_u_shaped_sflv1_equals_vanilla_and_full(run: Run, top_layer: int) -> None:
    """Break it: scale the gradient of the trunk's output, or leave the top out of the averages."""
    u_shaped = run(num_server_rounds=3, split_topology="u-shaped", split_top_layer=top_layer)
    vanilla = run(num_server_rounds=3)
    full = run(num_server_rounds=3, strategy="full")

    assert distance(weights(u_shaped), weights(vanilla)) < 1e-6
    assert distance(weights(u_shaped), weights(full)) < 1e-5
    of_client, of_server = (u_shaped.summary[f"{side}_parameters"] for side in ("client", "server"))
    assert of_client + of_server == full.summary["client_parameters"]
    assert of_client > vanilla.summary["client_parameters"]
    both = {name: u_shaped.summary[name] for name in u_shaped.summary if "flops" in name}
    assert sum(both.values()) == full.summary["client_flops_per_sample"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FedMedian", ""),
        ("FedTrimmedAvg", "beta = 0.3"),
        ("Krum", "num-malicious-nodes = 1"),
        ("MultiKrum", "num-malicious-nodes = 1, num-nodes-to-select = 2"),
        ("Bulyan", ""),
    ],
)
def test_a_robust_aggregator_chooses_between_whole_models_as_in_full(
    run: Run, plain_threads: None, name: str, options: str
) -> None:
    """Break it: average the copies, or let Krum measure distances between bottoms alone."""
    keys = {"aggregation.name": name, "aggregation.options": options}
    sflv1, full = run(**keys), run(strategy="full", **keys)
    assert distance(weights(sflv1), weights(full)) < 1e-5
    assert distance(weights(sflv1), weights(run())) > 1e-3
