from __future__ import annotations

import pytest
import torch

from fedsplit.seeding import generator
from tests.conftest import Run, distance, weights
from tests.strategies import by_hand

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


def test_one_server_part_takes_the_batches_of_each_step_in_a_random_order(
    run: Run, plain_threads: None
) -> None:
    """Break it: take them by partition id, or make the server's optimizer anew in each round."""
    images, parts = by_hand.shards(), by_hand.initial_parts()
    rest = parts.server_part()
    of_server = by_hand.sgd(rest)
    for server_round, bottoms, of_clients in by_hand.rounds_of(parts, images):
        for number, step in enumerate(by_hand.steps_of(images, server_round)):
            random = generator(by_hand.SEED, "order", server_round, number)
            for index in torch.randperm(len(step), generator=random).tolist():
                client = list(step)[index]
                loss = by_hand.loss_of(bottoms[client], rest, step[client])
                by_hand.descend(loss, of_server, of_clients[client])
    assert distance(weights(run(strategy="sflv2")), parts.merge().state_dict()) < 1e-6
