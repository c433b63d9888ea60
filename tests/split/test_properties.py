"""The algorithms at any size: K participants, n_k examples each, in any batches and epochs.

At every cut of a ViT they are in test_properties_cut.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from torch import nn

from fedsplit.channel.direct import DirectChannel
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.in_turn import InTurn
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import SplitServer
from tests.split.drawn import Shards, few, shards
from tests.split.reference import Central, Data, averaged, order_in, serving, train_round
from tests.split.toys import (
    Weights,
    assert_close,
    average_by_hand,
    bottom_of,
    config_of,
    server_part_of,
    train_jointly,
    weights_of,
)

ROUNDS = (1, 2)


def train(kind: type[UpdateRule], drawn: Shards, compare: Callable[..., Weights]) -> None:
    """Train two rounds; `compare` checks each, and returns the expected average of the bottoms."""
    server = serving(kind)
    channel = DirectChannel(server)
    bottom = weights_of(bottom_of())
    try:
        for server_round in ROUNDS:
            data = drawn.data(server_round)
            trained = train_round(
                server, channel.address, data, server_round=server_round, bottom=bottom
            )
            bottom = averaged(trained, data)
            assert_close(bottom, compare(server, data))
    finally:
        channel.close()
        server.close()


@given(drawn=shards())
@few
def test_sflv1_is_fedavg_on_the_whole_model(drawn: Shards) -> None:
    """Break it: average by 1 / K."""
    whole = weights_of(nn.Sequential(bottom_of(), server_part_of()))

    def compare(server: SplitServer, data: Data) -> Weights:
        trained, counts = [], []
        for batches in data.values():
            model = nn.Sequential(bottom_of(), server_part_of())
            model.load_state_dict(whole)
            train_jointly(model[0], model[1], batches, config_of())
            trained.append(weights_of(model))
            counts.append(sum(len(labels) for _, labels in batches))
        whole.update(average_by_hand(trained, counts))
        server_part = {n.removeprefix("1."): t for n, t in whole.items() if n.startswith("1.")}
        assert_close(weights_of(server.server_part), server_part)
        return {n.removeprefix("0."): t for n, t in whole.items() if n.startswith("0.")}

    train(PerParticipantCopies, drawn, compare)


@given(drawn=shards())
@few
def test_sflv2_is_its_order_replayed(drawn: Shards) -> None:
    """Break it: swap any two turns of a step."""
    central = Central(config_of())

    def compare(server: SplitServer, data: Data) -> Weights:
        central.in_turn(data, order_in(server))
        assert_close(weights_of(server.server_part), weights_of(central.server_part))
        return central.bottom

    train(InTurn, drawn, compare)


@given(drawn=shards())
@few
def test_parallel_is_a_step_on_all_batches(drawn: Shards) -> None:
    """Break it: weigh participants instead of examples."""
    central = Central(config_of())

    def compare(server: SplitServer, data: Data) -> Weights:
        central.concatenated(data)
        assert_close(weights_of(server.server_part), weights_of(central.server_part))
        return central.bottom

    train(Concatenated, drawn, compare)


@pytest.mark.parametrize("kind", [PerParticipantCopies, InTurn, Concatenated])
@given(drawn=shards((1, 1), largest=20))
@few
def test_one_client_is_plain_training(kind: type[UpdateRule], drawn: Shards) -> None:
    """Break it: take the server part's step before the cut gradient is computed.

    One round, because a shared server part's momentum outlives it and a client's does not.
    """
    server = serving(kind)
    channel = DirectChannel(server)
    try:
        data = drawn.data(1)
        trained = train_round(server, channel.address, data)
        bottom, server_part = bottom_of(), server_part_of()
        (participant,) = data
        train_jointly(bottom, server_part, data[participant], config_of())
        assert_close(trained[participant], weights_of(bottom))
        assert_close(weights_of(server.server_part), weights_of(server_part))
    finally:
        channel.close()
        server.close()
