from __future__ import annotations

import pytest
import torch

from fedsplit.seeding import generator
from tests.conftest import Run, distance, weights
from tests.strategies import by_hand

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


def test_each_client_goes_on_with_the_bottom_of_the_one_before(
    run: Run, plain_threads: None
) -> None:
    """Break it: give each client the bottom of the round's beginning, or keep one order."""
    images, parts = by_hand.shards(), by_hand.initial_parts()
    rest = parts.server_part()
    of_server = by_hand.sgd(rest)
    for server_round in by_hand.ROUNDS:
        random = generator(by_hand.SEED, "relay", server_round)
        for client in torch.randperm(len(images), generator=random).tolist():
            of_client = by_hand.sgd(parts.bottom)
            for batch in by_hand.batches_of(images[client], client, server_round):
                loss = by_hand.loss_of(parts.bottom, rest, batch)
                by_hand.descend(loss, of_server, of_client)
    assert distance(weights(run(strategy="sequential")), parts.merge().state_dict()) < 1e-6


def test_u_shaped_sequential_equals_vanilla(run: Run) -> None:
    """With plain SGD: the top's momentum lasts at the server, and at a client for a round.

    Break it: relay the bottom without the top.
    """
    one = run(strategy="sequential", momentum=0.0)
    other = run(strategy="sequential", momentum=0.0, split_topology="u-shaped")
    assert distance(weights(one), weights(other)) < 1e-6
