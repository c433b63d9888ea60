from __future__ import annotations

from typing import Any

import pytest
from flwr.app import ArrayRecord

from fedsplit import simulate
from fedsplit.arrays import to_state
from fedsplit.flower_internals import record_bytes
from strategies.replies import weights_of
from strategies.update_norms import UpdateNorms
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


def test_an_update_is_measured_from_the_clients_own_bottom(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: measure it from the weights that the run began with, in `_began_with`."""
    began, replied = [], []
    honest = UpdateNorms.faults

    def faults(norms: UpdateNorms, replies: Any, began_with: Any) -> dict[int, str]:  # noqa: ANN401
        began.append({client: to_state(began_with(client)) for client in replies})
        replied.append({client: to_state(weights_of(reply)) for client, reply in replies.items()})
        return honest(norms, replies, began_with)

    monkeypatch.setattr(UpdateNorms, "faults", faults)
    simulate(tiny, strategy="sflv3")
    first, second = began
    assert all(distance(weights, first[0]) == 0.0 for weights in first.values())
    assert set(second) == set(by_hand.CLIENTS)
    assert all(distance(second[client], replied[0][client]) == 0.0 for client in second)
