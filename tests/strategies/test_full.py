from __future__ import annotations

import pytest
from torch.nn.functional import cross_entropy

from tests.conftest import Run, distance, weights
from tests.strategies import by_hand

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


def test_full_is_fedavg_of_whole_models(run: Run, plain_threads: None) -> None:
    """Break it: weight the clients alike, or let a client's momentum outlive a round."""
    images, whole = by_hand.shards(), by_hand.initial_parts().merge()
    for server_round in by_hand.ROUNDS:
        trained = by_hand.copies(whole)
        for client, model in trained.items():
            optimizer = by_hand.sgd(model)
            for pixels, labels in by_hand.batches_of(images[client], client, server_round):
                loss = cross_entropy(by_hand.logits_of(model(pixels)), labels)
                by_hand.descend(loss, optimizer)
        by_hand.average_into(whole, trained, images)
    assert len({len(shard) for shard in images}) > 1
    assert distance(weights(run(strategy="full")), whole.state_dict()) < 1e-6
