from __future__ import annotations

import pytest
from flwr.app import ArrayRecord

from fedsplit.flower_internals import record_bytes
from tests.conftest import Run, distance
from tests.strategies import by_hand

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


def test_each_client_keeps_its_bottom_and_the_server_averages_its_copies(
    run: Run, plain_threads: None
) -> None:
    """Break it: aggregate the bottoms, or send each client the first one again."""
    images, parts = by_hand.shards(), by_hand.initial_parts()
    rest = parts.server_part()
    bottoms = by_hand.copies(parts.bottom)
    for server_round in by_hand.ROUNDS:
        rests = by_hand.copies(rest)
        for client in by_hand.CLIENTS:
            optimizer = by_hand.sgd(bottoms[client], rests[client])
            for batch in by_hand.batches_of(images[client], client, server_round):
                by_hand.descend(by_hand.loss_of(bottoms[client], rests[client], batch), optimizer)
        by_hand.average_into(rest, rests, images)
    result = run(strategy="sflv3")
    assert distance(result.model.trunk.state_dict(), parts.trunk.state_dict()) < 1e-6
    assert distance(result.model.top.state_dict(), parts.top.state_dict()) < 1e-6
    assert [row["sync_uplink_bytes"] for row in result.rounds] == [0, 0]
    empty = len(images) * record_bytes(ArrayRecord())
    first, second = (row["sync_downlink_bytes"] for row in result.rounds)
    assert first > second == empty


def test_a_robust_aggregator_chooses_between_the_server_copies(run: Run) -> None:
    """Break it: leave out `combine_copies` in `FederatedStrategy._close_round`."""
    keys = {"num_server_rounds": 1, "aggregation.name": "FedMedian"}
    sflv1, sflv3 = run(**keys), run(strategy="sflv3", **keys)
    mean = run(num_server_rounds=1)
    for part in ("trunk", "top"):
        one, other, plain = (getattr(r.model, part).state_dict() for r in (sflv1, sflv3, mean))
        assert distance(one, other) < 1e-6
        assert distance(one, plain) > 1e-4
    assert [row["sync_uplink_bytes"] for row in sflv3.rounds] == [0]
    assert [row["failed_clients"] for row in sflv3.rounds] == [[]]
