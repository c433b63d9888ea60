"""Parallel split learning: at each step one update on everyone's examples."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsplit.errors import ChannelError
from fedsplit.split import pieces
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.phases import Purpose
from fedsplit.split.steps import output_gradient
from tests.split.reference import (
    Central,
    Data,
    at_once,
    averaged,
    data_of,
    serving,
    train_round,
)
from tests.split.toys import (
    TREE_CUT,
    Batch,
    Client,
    Serve,
    assert_close,
    assert_same_bits,
    batches_of,
    bottom_of,
    config_of,
    make_server,
    optimizer_of,
    server_part_of,
    settings_of,
    train_jointly,
    weights_of,
)
from tests.split.ushaped import UClient, top_of, trunk_of, u_serving

ONE_STEP = data_of(k0=(8,), k2=(3,), k5=(1,))
MANY = data_of(k0=(8, 8, 3, 8), k1=(8, 1), k3=(5, 5, 5), k7=(8, 2))


def _together(data: Data) -> Batch:
    """Return everyone's first batch as one."""
    first = [batches[0] for batches in data.values()]
    return torch.cat([images for images, _ in first]), torch.cat([labels for _, labels in first])


def _smashed(participant: int, size: int) -> Batch:
    images, labels = batches_of(participant, size)[0]
    return images[:, :4], labels


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_is_one_centralised_step_on_the_concatenated_batch(
    serve: Serve, optimizer: str
) -> None:
    """Break it: weigh participants instead of examples (a factor of 1 / K for B_k / B)."""
    config = config_of(optimizer=optimizer)
    server = serving(Concatenated, config)
    train_round(server, serve(server), ONE_STEP, config=config)
    images, labels = _together(ONE_STEP)
    server_part = server_part_of()
    train_jointly(bottom_of(), server_part, [(images, labels)], config)
    assert_close(weights_of(server.server_part), weights_of(server_part))


def test_averaged_bottoms_equal_centralised_ones_for_one_step_of_sgd(serve: Serve) -> None:
    """Break it: return the gradient of the step's whole loss instead of each one's own mean."""
    config = config_of(momentum=0.0)
    server = serving(Concatenated, config)
    address, average = serve(server), weights_of(bottom_of())
    images, labels = _together(ONE_STEP)
    bottom, server_part = bottom_of(), server_part_of()
    for server_round in (1, 2, 3):
        trained = train_round(
            server, address, ONE_STEP, server_round=server_round, bottom=average, config=config
        )
        average = averaged(trained, ONE_STEP)
        train_jointly(bottom, server_part, [(images, labels)], config)
        assert_close(average, weights_of(bottom))
        assert_close(weights_of(server.server_part), weights_of(server_part))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_rounds_of_many_steps_equal_the_same_in_plain_pytorch(serve: Serve, optimizer: str) -> None:
    """Break it: make a new optimizer in each round, or leave out participants without a batch."""
    config = config_of(optimizer=optimizer, learning_rate=0.05)
    server, central = serving(Concatenated, config), Central(config)
    address = serve(server)
    for server_round, participants in enumerate(([0, 1, 3, 7], [1, 7], [0, 3]), start=1):
        data = {k: MANY[k] for k in participants}
        trained = train_round(
            server, address, data, server_round=server_round, bottom=central.bottom, config=config
        )
        expected = central.concatenated(data)
        for k in participants:
            assert_close(trained[k], expected[k])
        assert_close(weights_of(server.server_part), weights_of(central.server_part))


def test_both_channels_give_the_same_bits(serve_direct: Serve, serve_grpc: Serve) -> None:
    """Break it: hand out views of the concatenated output and gradient."""
    results = []
    for serve in (serve_direct, serve_grpc, serve_direct):
        server = serving(Concatenated)
        trained = train_round(server, serve(server), MANY)
        results.append((trained, weights_of(server.server_part)))
    for trained, server_part in results[1:]:
        assert_same_bits(server_part, results[0][1])
        for k in MANY:
            assert_same_bits(trained[k], results[0][0][k])


def test_steps_in_pieces_are_the_same_up_to_rounding_and_repeat(
    serve_direct: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: give each piece's loss the weight of its own examples only."""
    results = []
    for max_length in (1000, 9, 9):  # the first step then has pieces of 8, 8 and 7 examples
        monkeypatch.setattr(pieces, "MAX_LENGTH", max_length)
        server = serving(Concatenated)
        trained = train_round(server, serve_direct(server), MANY)
        results.append([weights_of(server.server_part), *(trained[k] for k in sorted(MANY))])
    whole, one, other = results
    for k in range(len(MANY) + 1):
        assert_close(one[k], whole[k])
        assert_same_bits(one[k], other[k])


def _rule(**overrides: object) -> Concatenated:
    rule = Concatenated(server_part_of(), settings_of(config_of(**overrides)))
    rule.open_round(1, [0, 1, 2])
    return rule


def test_each_participant_gets_the_gradient_of_its_own_mean_loss() -> None:
    """Break it: leave out the factor B / B_k on the way back. Each example weighs the same."""
    rule, before = _rule(), server_part_of()
    batches = {k: _smashed(k, k + 2) for k in range(3)}
    cut = at_once(lambda k: rule.step(k, *batches[k])[1], range(3))
    for k, (hidden, labels) in batches.items():
        leaf = hidden.clone().requires_grad_()
        (expected,) = torch.autograd.grad(cross_entropy(before(leaf), labels), [leaf])
        torch.testing.assert_close(cut[k], expected, atol=1e-7, rtol=0)
    rule.close()


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_failure_between_forward_and_backward_leaves_the_step_correct(gone: int) -> None:
    """Break it: divide by all examples of the step, those of the failed one too."""
    rule = _rule()
    sizes = {0: 4, 1: 3, 2: 6}
    data = {k: _smashed(k, size) for k, size in sizes.items()}
    logits = at_once(lambda k: rule.forward(k, data[k][0]), range(3))
    rest = [k for k in range(3) if k != gone]

    def go_on(k: int) -> object:
        if k == gone:
            rule.drop(k)
            return None
        output = logits[k]
        assert isinstance(output, Tensor)
        return rule.backward(k, output_gradient(output, data[k][1])[1])

    cut = at_once(go_on, range(3))
    expected = server_part_of()
    optimizer = optimizer_of(expected.parameters(), config_of())
    hidden = torch.cat([data[k][0] for k in rest]).requires_grad_()
    labels = torch.cat([data[k][1] for k in rest])
    torch.autograd.backward(cross_entropy(expected(hidden), labels))
    optimizer.step()
    assert_close(weights_of(rule.server_part), weights_of(expected))
    assert hidden.grad is not None
    for k, own in zip(rest, torch.split(hidden.grad, [sizes[k] for k in rest]), strict=True):
        torch.testing.assert_close(cut[k], own * (len(labels) / sizes[k]), atol=1e-7, rtol=0)
    rule.close()


@pytest.mark.parametrize("last", [False, True], ids=["first step", "second step"])
def test_a_u_shaped_client_that_dies_before_its_gradient(serve: Serve, last: bool) -> None:
    """Over a channel too, the step is computed as if its batch did not exist."""
    server = u_serving(Concatenated)
    address = serve(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1, 2])
    data = {k: batches_of(k, 8, 3 + k) for k in range(3)}
    all_forward = threading.Barrier(3)

    def work(k: int) -> None:
        client = UClient(address, tokens[k])
        with client.session:
            for step, batch in enumerate(data[k]):
                client.optimizer.zero_grad()
                loss = client.forward(batch)
                if step == int(last):
                    all_forward.wait(10)
                    if k == 1:
                        return
                torch.autograd.backward(loss)
                client.optimizer.step()
            client.session.finish()

    at_once(work, range(3))
    report = server.report()
    assert report.num_examples == {0: 11, 2: 13}
    assert list(report.failures) == [1]
    trunk = trunk_of()
    optimizer = optimizer_of(trunk.parameters(), config_of())
    ends = {k: (bottom_of(), top_of()) for k in range(3)}
    own = {
        k: optimizer_of([*bottom.parameters(), *top.parameters()], config_of())
        for k, (bottom, top) in ends.items()
    }
    for step in range(2):
        there = [k for k in range(3) if k != 1 or step < int(last)]
        total = sum(len(data[k][step][1]) for k in there)
        for each in (optimizer, *own.values()):
            each.zero_grad()
        hidden = {k: ends[k][0](data[k][step][0]) for k in there}
        losses = {k: cross_entropy(ends[k][1](trunk(hidden[k])), data[k][step][1]) for k in there}
        for k in there:
            share = len(data[k][step][1]) / total
            weights = [w for part in ends[k] for w in part.parameters()]
            gradients = torch.autograd.grad(losses[k], weights, retain_graph=True)
            torch.autograd.backward(losses[k] * share, inputs=list(trunk.parameters()))
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            own[k].step()
        optimizer.step()
    assert_close(weights_of(server.server_part), weights_of(trunk))


def test_an_infinite_loss_of_one_participant_leaves_the_step_correct() -> None:
    """Break it: let `check_gradients` or the loss of one end the step of all."""
    rule, start = _rule(), server_part_of()
    rule.drop(2)
    good, labels = _smashed(0, 4)

    def step(k: int) -> str:
        logits = rule.forward(k, good if k == 0 else torch.ones(2, 4))
        assert isinstance(logits, Tensor)
        try:
            if k == 1:
                logits = torch.tensor([[3e38, -3e38, 0.0, 0.0, 0.0]] * 2)
            _, gradient = output_gradient(logits, labels if k == 0 else torch.tensor([1, 1]))
        except ChannelError as error:
            rule.drop(k)
            return str(error)
        rule.backward(k, gradient)
        return "trained"

    outcomes = at_once(step, [0, 1])
    assert outcomes[0] == "trained"
    assert "loss of a batch is inf" in outcomes[1]
    optimizer = optimizer_of(start.parameters(), config_of())
    torch.autograd.backward(cross_entropy(start(good), labels))
    optimizer.step()
    assert_close(weights_of(rule.server_part), weights_of(start))
    rule.close()


def test_trees_are_concatenated_by_name(serve: Serve) -> None:
    """Break it: concatenate the tensors in the order of names, or forget those of integers."""
    server = make_server(tree=True)
    server.close()
    rule = Concatenated(server.server_part, settings_of(config_of(momentum=0.0)))
    server.rule = rule
    tokens = server.open_round(Purpose.TRAIN, [0, 1])
    address = serve(server)
    data = {0: batches_of(0, 8), 1: batches_of(1, 3)}

    def train(k: int) -> nn.Module:
        bottom = bottom_of(tree=True)
        config = config_of(momentum=0.0)
        Client(address, tokens[k], bottom=bottom, config=config, cut=TREE_CUT).train(data[k])
        return bottom

    bottoms = at_once(train, data)
    assert server.report().failures == {}
    whole, expected = bottom_of(tree=True), server_part_of(tree=True)
    images, labels = _together(data)
    train_jointly(whole, expected, [(images, labels)], config_of(momentum=0.0))
    assert_close(weights_of(rule.server_part), weights_of(expected))
    average = averaged({k: weights_of(bottom) for k, bottom in bottoms.items()}, data)
    assert_close(average, weights_of(whole))


def test_an_error_of_a_shared_step_reaches_everyone_with_its_reason() -> None:
    rule = _rule()
    rule.server_part.get_parameter("3.weight").data.fill_(torch.nan)
    before = weights_of(rule.server_part)

    def step(k: int) -> str:
        with pytest.raises(ChannelError) as error:
            rule.backward(k, torch.zeros_like(rule.forward(k, torch.ones(2, 4))))  # type: ignore[arg-type]
        return str(error.value)

    told = at_once(step, range(3))
    assert len(set(told.values())) == 1
    assert "gradient of a step has NaN or infinity" in told[0]
    after = weights_of(rule.server_part)
    assert all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)
    rule.close()
