from __future__ import annotations

import pytest

from tests.conftest import Run, distance, weights
from tests.strategies import by_hand

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


def test_one_server_part_takes_a_step_on_all_batches_together(
    run: Run, plain_threads: None
) -> None:
    """Break it: weight batches of unequal size alike, or scale a bottom's gradient by its share."""
    images, parts = by_hand.shards(), by_hand.initial_parts()
    rest = parts.server_part()
    of_server = by_hand.sgd(rest)
    for server_round, bottoms, of_clients in by_hand.rounds_of(parts, images):
        for step in by_hand.steps_of(images, server_round):
            size = sum(len(labels) for _, labels in step.values())
            of_server.zero_grad()
            for client, batch in step.items():
                of_clients[client].zero_grad()
                share = len(batch[1]) / size
                loss = by_hand.loss_of(bottoms[client], rest, batch)
                (share * loss).backward()  # type: ignore[no-untyped-call]
                for weight in bottoms[client].parameters():  # its own loss, not its share
                    assert weight.grad is not None
                    weight.grad /= share
                of_clients[client].step()
            of_server.step()
    assert distance(weights(run(strategy="parallel")), parts.merge().state_dict()) < 1e-6


def test_u_shaped_parallel_equals_vanilla_when_a_round_is_a_step(run: Run) -> None:
    """Then the mean of the tops' steps is the step of the one top (plain SGD).

    Break it: give back the cut gradient of the step's whole loss instead of the client's own.
    """
    keys: dict[str, object] = {
        "strategy": "parallel",
        "momentum": 0.0,
        "local_epochs": 1,
        "batch_size": 36,
    }
    one = run(**keys, data_partitioner="iid")
    other = run(**keys, data_partitioner="iid", split_topology="u-shaped")
    assert len({row["num_examples"] for row in one.rounds}) == 1
    assert distance(weights(one), weights(other)) < 1e-6
