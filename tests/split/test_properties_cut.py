"""The algorithms at every cut of a ViT, in both topologies, at any size.

One cut is the vanilla topology, two are the U-shaped one; each is compared with a model that is
never cut. So where both topologies equal it, they are equal (see docs/algorithms.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings

from fedsplit.channel.direct import DirectChannel
from fedsplit.config import Config
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.in_turn import InTurn
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import SplitServer
from tests.split.chains import POINTS, SHAPE, Points, client_of, held_by, serving_chain
from tests.split.drawn import Shards, few, shards
from tests.split.reference import Data, at_once, averaged, examples_in, order_in
from tests.split.toys import Weights, assert_close, config_of, weights_of
from tests.split.whole import Whole

RULES: list[type[UpdateRule]] = [PerParticipantCopies, InTurn, Concatenated]
Replay = Callable[[Whole, Data, SplitServer], None]
at_every_cut = pytest.mark.parametrize("points", POINTS, ids=str)
fewer = settings(few, max_examples=3)  # at each cut
several = shards((2, 3), largest=6)


def train(
    kind: type[UpdateRule],
    points: Points,
    rounds: Sequence[Data],
    replay: Replay,
    config: Config | None = None,
) -> None:
    """Train these rounds at a cut; after each, all weights must equal those of `replay`."""
    config = config_of() if config is None else config
    server, whole = serving_chain(kind, points, config), Whole(points, config)
    channel = DirectChannel(server)
    held = whole.own
    try:
        for server_round, data in enumerate(rounds, start=1):
            trained = train_round(server, channel.address, points, data, server_round, held, config)
            held = averaged(trained, data)
            replay(whole, data, server)
            assert_close(weights_of(server.server_part), whole.shared, atol=1e-9)
            for k, each in whole.held.items():
                assert_close(ordered(trained[k], each), each, atol=1e-9)
            assert_close(ordered(held, whole.own), whole.own, atol=1e-9)
    finally:
        channel.close()
        server.close()


def train_round(
    server: SplitServer,
    address: str,
    points: Points,
    data: Data,
    server_round: int,
    held: Weights,
    config: Config,
) -> dict[int, Weights]:
    """Train one round and close it; return each participant's weights."""
    tokens = server.open_round(Purpose.TRAIN, list(data), server_round)
    clients = {k: client_of(address, tokens[k], points, held=held, config=config) for k in data}
    at_once(lambda k: clients[k].train(data[k]), data)
    report = server.report()
    assert report.failures == {}
    assert report.num_examples == {k: examples_in(data[k]) for k in data}
    server.close_round(report.num_examples)
    return {k: held_by(client) for k, client in clients.items()}


def ordered(weights: Weights, like: Weights) -> Weights:
    assert set(weights) == set(like)
    return {name: weights[name] for name in like}


def two_rounds(drawn: Shards) -> list[Data]:
    return [drawn.data(server_round, SHAPE) for server_round in (1, 2)]


@at_every_cut
@given(drawn=several)
@fewer
def test_sflv1_is_fedavg_on_the_whole_model(points: Points, drawn: Shards) -> None:
    """Break it: average by 1 / K, or leave the top out of the client's optimizer."""
    train(
        PerParticipantCopies,
        points,
        two_rounds(drawn),
        lambda whole, data, _: whole.fedavg(data),
    )


@at_every_cut
@given(drawn=several)
@fewer
def test_sflv2_is_its_order_replayed(points: Points, drawn: Shards) -> None:
    """Break it: swap any two turns of a step."""
    train(
        InTurn,
        points,
        two_rounds(drawn),
        lambda whole, data, server: whole.in_turn(data, order_in(server)),
    )


@at_every_cut
@given(drawn=several)
@fewer
def test_parallel_is_a_step_on_all_batches(points: Points, drawn: Shards) -> None:
    """Break it: weigh participants instead of examples."""
    train(
        Concatenated,
        points,
        two_rounds(drawn),
        lambda whole, data, _: whole.concatenated(data),
    )


@at_every_cut
@given(drawn=several)
@fewer
def test_a_round_of_one_parallel_step_is_one_on_the_concatenated_batch(
    points: Points, drawn: Shards
) -> None:
    """Break it: return the gradient of a participant's share of the loss, not of its loss.

    With plain SGD, FedAvg of the clients' steps is the step of the whole model, with or without
    a top.
    """
    rounds = [{k: batches[:1] for k, batches in data.items()} for data in two_rounds(drawn)]

    def step(whole: Whole, data: Data, server: SplitServer) -> None:
        images, labels = zip(*(batches[0] for batches in data.values()), strict=True)
        whole.train([(torch.cat(images), torch.cat(labels))])

    train(Concatenated, points, rounds, step, config_of(momentum=0.0))


@pytest.mark.parametrize("kind", RULES)
@at_every_cut
@given(drawn=shards((1, 1), largest=10))
@fewer
def test_one_client_is_plain_training(
    kind: type[UpdateRule], points: Points, drawn: Shards
) -> None:
    """Break it: leave the update out of any rule.

    One round, because a shared server part's momentum outlives it and a client's does not.
    """
    train(kind, points, [drawn.data(1, SHAPE)], lambda whole, data, _: whole.fedavg(data))
