from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD

from fedsplit.errors import ConfigError
from fedsplit.snapshot import from_bytes, to_bytes
from fedsplit.split.local import (
    BatchLoss,
    Objective,
    PooledTraining,
    evaluate_batches,
    proximal_term,
    train_batches,
)
from fedsplit.split.steps import StepResult, score
from fedsplit.split.training import Training
from tests.split.toys import (
    assert_close,
    assert_same_bits,
    batches_of,
    bottom_of,
    config_of,
    server_part_of,
    train_jointly,
    weights_of,
)


def training_of(**keys: object) -> Training:
    return Training.of_clients(config_of(**keys))


def objective_of(model: nn.Module) -> Objective:
    return lambda images, labels: BatchLoss.of(score(model(images), labels))


def test_training_is_the_plain_loop() -> None:
    batches = batches_of(0, 8, 8, 3)
    joined = nn.Sequential(bottom_of(), server_part_of())
    config = config_of(learning_rate=0.1, momentum=0.0)
    result = train_batches(
        batches, objective_of(joined), SGD(joined.parameters(), lr=0.1), training_of()
    )
    reference = nn.Sequential(bottom_of(), server_part_of())
    losses = train_jointly(reference[0], reference[1], batches, config)
    assert_same_bits(weights_of(joined), weights_of(reference))
    assert result.num_examples == 19
    assert result.loss == pytest.approx(
        sum(a * b for a, b in zip(losses, (8, 8, 3), strict=True)) / 19
    )


def test_means_weigh_examples_not_batches() -> None:
    def objective(images: torch.Tensor, labels: torch.Tensor) -> StepResult:
        return StepResult(images.sum().requires_grad_(), labels.sum())

    batches = [
        (torch.tensor([4.0]), torch.tensor([1, 1, 0])),
        (torch.tensor([8.0]), torch.tensor([0])),
    ]
    assert evaluate_batches(batches, objective) == (4, 5.0, 0.5)


def test_evaluation_changes_nothing_and_builds_no_graph() -> None:
    model = nn.Linear(6, 5)
    before = weights_of(model)
    seen: list[bool] = []

    def objective(images: torch.Tensor, labels: torch.Tensor) -> StepResult:
        result = score(model(images), labels)
        seen.append(result.loss.requires_grad)
        return result

    result = evaluate_batches(batches_of(0, 4, 4), objective)
    assert (result.num_examples, seen) == (8, [False, False])
    assert torch.is_grad_enabled()
    assert_same_bits(weights_of(model), before)


def test_nothing_to_do() -> None:
    def evaluate(images: torch.Tensor, labels: torch.Tensor) -> StepResult:
        raise AssertionError

    def train(images: torch.Tensor, labels: torch.Tensor) -> BatchLoss:
        raise AssertionError

    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    assert evaluate_batches([], evaluate) == (0, 0.0, 0.0)
    assert train_batches([], train, optimizer, training_of()) == (0, 0.0, 0.0)


def test_the_proximal_term_pulls_each_weight_towards_its_start() -> None:
    model = nn.Linear(2, 1, bias=False)
    start = model.weight.detach().clone()
    add_gradient = proximal_term(model, 0.5)
    with torch.no_grad():
        model.weight.add_(torch.tensor([[2.0, -4.0]]))
    model.weight.grad = torch.tensor([[1.0, 1.0]])
    add_gradient()
    # the gradient plus mu times the distance from the start
    torch.testing.assert_close(model.weight.grad, torch.tensor([[2.0, -1.0]]))
    assert not torch.equal(model.weight, start)


def test_no_proximal_term_leaves_the_gradient_alone() -> None:
    model = nn.Linear(2, 1)
    assert model.weight.grad is None
    proximal_term(model, 0.0)()
    assert model.weight.grad is None


def test_fedprox_equals_training_on_the_objective_with_its_term() -> None:
    """Break it: let w_0 be the weights of the step before instead of the round's start."""
    model, reference = bottom_of(), bottom_of()
    start = [weight.detach().clone() for weight in reference.parameters()]
    mu, batches = 0.7, [(x, y % 4) for x, y in batches_of(0, 8, 8, 3)]
    train_batches(
        batches,
        objective_of(model),
        SGD(model.parameters(), lr=0.1),
        training_of(),
        proximal_term(model, mu),
    )
    optimizer = SGD(reference.parameters(), lr=0.1)
    for images, labels in batches:
        optimizer.zero_grad()
        distance = sum(
            ((w - w_0) ** 2).sum() for w, w_0 in zip(reference.parameters(), start, strict=True)
        )
        torch.autograd.backward(score(reference(images), labels).loss + mu / 2 * distance)
        optimizer.step()
    assert_close(weights_of(model), weights_of(reference))


def test_the_clip_comes_after_the_proximal_term() -> None:
    """Break it: clip before `before_step`; the term's gradient would be beyond the limit."""
    model = nn.Linear(6, 5)
    before = torch.cat([weight.detach().flatten() for weight in model.parameters()])

    def pull() -> None:
        for weight in model.parameters():
            assert weight.grad is not None
            weight.grad.add_(100.0)

    train_batches(
        batches_of(0, 8),
        objective_of(model),
        SGD(model.parameters(), lr=0.1),
        training_of(clip_norm=2.0),
        pull,
    )
    after = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.1 * 2.0, rel=1e-3)


def test_pooled_training_keeps_its_optimizer_and_takes_the_rounds_rate() -> None:
    """Break it: make the optimizer in `train`, or leave the rate as it is."""
    config = config_of(learning_rate_schedule="step", decay_rounds=1, learning_rate_decay=0.5)
    model, reference = (nn.Sequential(bottom_of(), server_part_of()) for _ in range(2))
    pool = PooledTraining(
        model,
        lambda server_round: batches_of(server_round, 8, 8, 3),
        Training.of_clients(config),
    )
    results = [pool.train(server_round) for server_round in (1, 2, 3)]
    optimizer = SGD(reference.parameters(), lr=0.1, momentum=0.9)
    for server_round in (1, 2, 3):
        optimizer.param_groups[0]["lr"] = 0.1 * 0.5 ** (server_round - 1)
        losses = []
        for images, labels in batches_of(server_round, 8, 8, 3):
            optimizer.zero_grad()
            loss = score(reference(images), labels).loss
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(loss.item() * len(labels))
        assert results[server_round - 1].loss == pytest.approx(sum(losses) / 19)
    assert_same_bits(weights_of(model), weights_of(reference))
    assert [result.num_examples for result in results] == [19, 19, 19]


def test_the_descended_loss_and_the_reported_one_may_differ() -> None:
    """Break it: report the loss that is descended, or descend the one that is reported."""
    model, reference = bottom_of(), bottom_of()
    batches = [(images, labels % 4) for images, labels in batches_of(0, 8, 3)]

    def penalised(images: torch.Tensor, labels: torch.Tensor) -> BatchLoss:
        result = score(model(images), labels)
        return BatchLoss(result.loss + 3.0 * model.get_parameter("weight").square().sum(), result)

    found = train_batches(batches, penalised, SGD(model.parameters(), lr=0.1), training_of())
    optimizer, losses, hits = SGD(reference.parameters(), lr=0.1), [], 0
    for images, labels in batches:
        optimizer.zero_grad()
        loss, num_correct = score(reference(images), labels)
        torch.autograd.backward(loss + 3.0 * reference.get_parameter("weight").square().sum())
        optimizer.step()
        losses.append(loss.item() * len(labels))
        hits += int(num_correct)
    assert_same_bits(weights_of(model), weights_of(reference))
    assert (found.num_examples, found.accuracy) == (11, hits / 11)
    assert found.loss == pytest.approx(sum(losses) / 11)


def test_a_loss_without_a_graph_trains_nothing_and_is_reported() -> None:
    """Break it: call `backward` whatever comes; a frozen bottom's round would fail."""
    model = bottom_of().requires_grad_(False)
    before = weights_of(model)

    def plain(images: torch.Tensor, labels: torch.Tensor) -> BatchLoss:
        return BatchLoss.of(StepResult(torch.tensor(2.0), torch.tensor(1)))

    optimizer = training_of().make_optimizer(model.named_parameters())
    assert train_batches(batches_of(0, 4, 4), plain, optimizer, training_of()) == (8, 2.0, 0.25)
    assert_same_bits(weights_of(model), before)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_pooled_training_continues_from_its_state_bit_for_bit(optimizer: str) -> None:
    """Break it: leave the optimizer, or the model, out of `PooledTraining.state_dict`."""

    def pool_of() -> PooledTraining:
        model = nn.Sequential(bottom_of(), server_part_of())
        return PooledTraining(
            model, lambda r: batches_of(r, 8, 3), training_of(optimizer=optimizer)
        )

    whole, first, second = pool_of(), pool_of(), pool_of()
    for server_round in (1, 2, 3, 4):
        whole.train(server_round)
    for server_round in (1, 2):
        first.train(server_round)
    second.load_state_dict(from_bytes(to_bytes(first.state_dict())))
    for server_round in (3, 4):
        second.train(server_round)
    assert_same_bits(weights_of(second.model), weights_of(whole.model))


def test_a_step_that_returns_no_batch_loss_is_refused() -> None:
    """Break it: read its fields, and a number has none."""
    model = nn.Sequential(bottom_of(), server_part_of())

    def objective(images: torch.Tensor, labels: torch.Tensor) -> StepResult:
        return score(model(images), labels)

    with pytest.raises(ConfigError, match=r"returned StepResult, not BatchLoss\(.*BatchLoss\.of"):
        train_batches(
            batches_of(0, 8),
            objective,  # type: ignore[arg-type]
            SGD(model.parameters(), lr=0.1),
            training_of(),
        )


def test_a_loss_that_leaves_the_graph_is_refused_where_weights_are_to_train() -> None:
    """Break it: train nothing without a word, as where all is frozen."""
    model = bottom_of()

    def detached(images: torch.Tensor, labels: torch.Tensor) -> BatchLoss:
        result = score(model(images).detach(), labels % 4)
        return BatchLoss(result.loss, result)

    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"depends on no weight that trains.*without detach"):
        train_batches(batches_of(0, 4), detached, optimizer, training_of())
