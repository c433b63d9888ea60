from __future__ import annotations

import pytest
from torch.nn.functional import cross_entropy

from fedsplit import Config
from fedsplit.data.loader import batches
from fedsplit.data.shards import load_pool
from fedsplit.models.loading import input_spec
from fedsplit.seeding import generator
from tests.conftest import TINY, Run, distance, weights
from tests.strategies import by_hand

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


def test_centralized_is_a_plain_loop_over_everyones_images(run: Run, plain_threads: None) -> None:
    """Break it: make a new optimizer in each round; its momentum is lost."""
    images = load_pool(Config.load(TINY), len(by_hand.CLIENTS), input_spec("vit-nano"))
    whole = by_hand.initial_parts().merge()
    optimizer = by_hand.sgd(whole)
    for server_round in by_hand.ROUNDS:
        for epoch in by_hand.EPOCHS:
            order = generator(by_hand.SEED, "pooled batches", server_round, epoch)
            for indices in batches(len(images), 8, generator=order):
                pixels, labels = images.batch(indices)
                loss = cross_entropy(by_hand.logits_of(whole(pixels)), labels)
                by_hand.descend(loss, optimizer)
    result = run(strategy="centralized")
    assert distance(weights(result), whole.state_dict()) < 1e-6
    assert [row["num_examples"] for row in result.rounds] == [2 * len(images)] * 2
    assert result.summary["sync_uplink_bytes"] == result.summary["cut_uplink_bytes"] == 0
    assert result.summary["client_parameters"] == 0 < result.summary["server_parameters"]
    assert all(row["validation_accuracy"] is not None for row in result.rounds)
