"""SFLV2 and sequential split learning: one server part, which takes one batch after another."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedsplit.errors import ChannelError
from fedsplit.split.in_turn import InTurn
from fedsplit.split.phases import Purpose
from fedsplit.split.steps import score
from tests.split.reference import (
    Central,
    at_once,
    averaged,
    data_of,
    order_in,
    serving,
    train_round,
)
from tests.split.toys import (
    Client,
    Serve,
    assert_close,
    assert_same_bits,
    batches_of,
    bottom_of,
    config_of,
    optimizer_of,
    server_part_of,
    settings_of,
    train_jointly,
    weights_of,
)

DATA = data_of(k0=(8, 8, 3, 8), k1=(8, 1), k3=(5, 5, 5), k7=(8, 8, 8))


def test_each_step_orders_the_participants_that_deliver(serve: Serve) -> None:
    """Break it: order all active participants instead of those that have delivered."""
    server = serving(InTurn)
    address = serve(server)
    for server_round in (1, 2):
        train_round(server, address, DATA, server_round=server_round)
        delivering = [[k for k in DATA if step < len(DATA[k])] for step in range(4)]
        assert [sorted(step) for step in order_in(server)] == delivering


def _orders(seed: int) -> list[list[tuple[int, ...]]]:
    """Return the orders of two rounds of six steps of five participants."""
    rule = InTurn(server_part_of(), settings_of(config_of(seed=seed)))
    smashed, labels = torch.ones(2, 4), torch.tensor([0, 1])
    orders = []
    for server_round in (1, 2):
        rule.open_round(server_round, range(5))
        for _ in range(6):
            at_once(lambda k: rule.step(k, smashed, labels), range(5))
        orders.append(rule.order)
    rule.close()
    return orders


def test_the_permutation_is_fresh_in_each_step_round_and_seed() -> None:
    """Break it: draw the order once per round (leave the step out of the generator's names)."""
    first, second = _orders(1)
    for order in (first, second):
        assert len(set(order)) >= 5  # of 120 permutations, six draws are rarely the same
        assert len({step[0] for step in order}) >= 3  # nobody is always first
    assert first != second
    assert _orders(2)[0] != first
    assert _orders(1) == [first, second]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_central_replay_of_the_order_gives_the_same_weights(serve: Serve, optimizer: str) -> None:
    """Break it: record another order than the one used, or forget the momentum between rounds.

    Three rounds, with unequal numbers of steps and examples, and partial participation.
    """
    config = config_of(optimizer=optimizer, learning_rate=0.05)
    server, central = serving(InTurn, config), Central(config)
    address = serve(server)
    for server_round, participants in enumerate(([0, 1, 3, 7], [1, 7], [0, 3, 7]), start=1):
        data = {k: DATA[k] for k in participants}
        trained = train_round(
            server, address, data, server_round=server_round, bottom=central.bottom, config=config
        )
        expected = central.in_turn(data, order_in(server))
        for k in participants:
            assert_close(trained[k], expected[k])
        assert_close(averaged(trained, data), central.bottom)
        assert_close(weights_of(server.server_part), weights_of(central.server_part))


def test_a_different_order_gives_different_weights(serve_direct: Serve) -> None:
    """Otherwise the replay above would prove nothing."""
    server, reversed_order = serving(InTurn), Central(config_of())
    train_round(server, serve_direct(server), DATA)
    reversed_order.in_turn(DATA, [step[::-1] for step in order_in(server)])
    difference = [
        float((one - other).abs().max())
        for one, other in zip(
            weights_of(server.server_part).values(),
            weights_of(reversed_order.server_part).values(),
            strict=True,
        )
    ]
    assert min(difference) > 1e-4


def test_both_channels_and_every_schedule_of_threads_give_the_same_bits(
    serve_direct: Serve, serve_grpc: Serve
) -> None:
    """Break it: give the first turn to the participant that arrives first."""
    results = []
    for serve in (serve_direct, serve_grpc, serve_direct):
        server = serving(InTurn)
        trained = train_round(server, serve(server), DATA)
        results.append((order_in(server), trained, weights_of(server.server_part)))
    for order, trained, server_part in results[1:]:
        assert order == results[0][0]
        assert_same_bits(server_part, results[0][2])
        for k in DATA:
            assert_same_bits(trained[k], results[0][1][k])


def test_one_participant_at_a_time_is_plain_training_relayed(serve: Serve) -> None:
    """Break it: make the server part's optimizer in `open_round`.

    Sequential split learning: the bottom goes from client to client, each with a fresh optimizer,
    while the server part keeps its momentum.
    """
    server = serving(InTurn)
    address = serve(server)
    bottom, relayed, whole = bottom_of(), weights_of(bottom_of()), server_part_of()
    lasting = optimizer_of(whole.parameters(), config_of())
    for server_round, relay in enumerate(([3, 0, 7], [1, 3]), start=1):
        for k in relay:
            trained = train_round(
                server, address, {k: DATA[k]}, server_round=server_round, bottom=relayed
            )
            relayed = trained[k]
            own = optimizer_of(bottom.parameters(), config_of())
            for images, labels in DATA[k]:
                own.zero_grad()
                lasting.zero_grad()
                torch.autograd.backward(score(whole(bottom(images)), labels).loss)
                own.step()
                lasting.step()
    assert_close(relayed, weights_of(bottom))
    assert_close(weights_of(server.server_part), weights_of(whole))


def test_one_client_alone_is_plain_training(serve: Serve) -> None:
    """Break it: return the cut gradient after the server part's update."""
    server = serving(InTurn)
    trained = train_round(server, serve(server), {4: batches_of(4, 8, 8, 2)})
    bottom, server_part = bottom_of(), server_part_of()
    train_jointly(bottom, server_part, batches_of(4, 8, 8, 2), config_of())
    assert_close(trained[4], weights_of(bottom))
    assert_close(weights_of(server.server_part), weights_of(server_part))


def test_a_participant_without_batches_does_not_block_others(serve: Serve) -> None:
    data = {**data_of(k0=(8, 8), k1=(8,)), 2: []}
    server = serving(InTurn, config_of(channel_join_timeout=60.0))
    train_round(server, serve(server), data)
    assert [sorted(step) for step in order_in(server)] == [[0, 1], [0]]


@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
def test_each_turn_is_clipped_by_itself(serve_direct: Serve, clip_norm: float) -> None:
    """Break it: leave `clip_norm` out of `SharedServerPart._update`."""
    config = config_of(clip_norm=clip_norm, momentum=0.0)
    server = serving(InTurn, config)
    address = serve_direct(server)
    before = server_part_of()
    train_round(server, address, data_of(k0=(8,)), config=config)
    moved = torch.cat(
        [
            (after - start).flatten()
            for after, start in zip(
                server.server_part.parameters(), before.parameters(), strict=True
            )
        ]
    ).norm()
    loss = score(before(bottom_of()(batches_of(0, 8)[0][0])), batches_of(0, 8)[0][1]).loss
    gradients = torch.autograd.grad(loss, list(before.parameters()))
    norm = float(nn.utils.get_total_norm(gradients))
    assert norm > 0.1
    assert float(moved.detach()) == pytest.approx(0.1 * (clip_norm or norm), rel=1e-3)


def test_the_rounds_rate_reaches_the_lasting_optimizer(serve_direct: Serve) -> None:
    """Break it: leave `set_rate` out of `open_round`, or make a new optimizer there."""
    config = config_of(
        learning_rate_schedule="step", decay_rounds=1, learning_rate_decay=0.5, momentum=0.9
    )
    server = serving(InTurn, config)
    assert isinstance(server.rule, InTurn)
    optimizer = server.rule.optimizer
    address = serve_direct(server)
    rates = []
    for server_round in (1, 2, 3):
        tokens = server.open_round(Purpose.TRAIN, [0], server_round)
        at_once(lambda k, t=tokens: Client(address, t[k]).train(DATA[0]), [0])  # type: ignore[misc]
        server.close_round(server.report().num_examples)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.05, 0.025])
    assert server.rule.optimizer is optimizer
    assert all(state["momentum_buffer"].abs().sum() > 0 for state in optimizer.state.values())


def test_a_batch_that_makes_statistics_infinite_is_refused_and_they_are_as_before() -> None:
    """Break it: check gradients only; a batch norm keeps infinity for good."""
    part = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5)).train()
    rule = InTurn(part, settings_of())
    rule.open_round(1, [3])
    rule.begin(3)
    images, labels = batches_of(3, 8)[0]
    rule.step(3, images[:, :4], labels)
    before = weights_of(part)
    with pytest.raises(ChannelError, match=r"A batch of client 3 makes running statistics"):
        rule.step(3, images[:, :4] * 1e30, labels)
    assert_same_bits(weights_of(part), before)
    rule.close()
