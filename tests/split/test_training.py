from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from fedsplit.config import Config
from fedsplit.split.training import Training
from tests.split.reference import server_step
from tests.split.toys import (
    assert_same_bits,
    config_of,
    optimizer_of,
    optimizer_state,
    server_part_of,
    weights_of,
)

HIDDEN = torch.linspace(-1, 1, 12).reshape(3, 4)
LABELS = torch.tensor([0, 4, 2])


def training_of(**keys: object) -> Training:
    return Training.of_clients(config_of(**keys))


def rates(**keys: object) -> list[float]:
    training = training_of(learning_rate=0.8, num_server_rounds=8, **keys)
    return [training.rate(server_round) for server_round in range(1, 9)]


def test_constant() -> None:
    assert rates() == [0.8] * 8


def test_step_by_hand() -> None:
    """Break it: count from `server_round` instead of the rounds that are past."""
    found = rates(learning_rate_schedule="step", decay_rounds=3, learning_rate_decay=0.5)
    assert found == [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2]


def test_cosine_by_hand() -> None:
    """Break it: divide by the number of rounds less one; the last round would not train."""
    found = rates(learning_rate_schedule="cosine")
    assert found[0] == 0.8
    assert found[4] == pytest.approx(0.4)
    assert found[2] == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    assert found[7] == pytest.approx(0.4 * (1 + math.cos(math.pi * 7 / 8)))
    assert min(found) > 0
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_schedules_equal_those_of_torch(schedule: str) -> None:
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    theirs = (
        StepLR(optimizer, step_size=3, gamma=0.5)
        if schedule == "step"
        else CosineAnnealingLR(optimizer, T_max=8)
    )
    expected = []
    for _ in range(8):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    found = rates(learning_rate_schedule=schedule, decay_rounds=3, learning_rate_decay=0.5)
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_warm_up_rises_to_the_rate_and_not_beyond() -> None:
    """Break it: divide by `warmup_rounds`; its last round would have the full rate already."""
    assert rates(warmup_rounds=3) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8])
    assert rates(warmup_rounds=1)[:2] == pytest.approx([0.4, 0.8])
    cosine = rates(learning_rate_schedule="cosine")
    warm = rates(learning_rate_schedule="cosine", warmup_rounds=3)
    assert warm[:3] == pytest.approx([cosine[i] * (i + 1) / 4 for i in range(3)])
    assert warm[3:] == cosine[3:]


def test_a_warm_up_longer_than_the_run_never_reaches_the_rate() -> None:
    found = rates(warmup_rounds=20)
    assert found == pytest.approx([0.8 * r / 21 for r in range(1, 9)])
    assert torch.tensor(found).diff().min() > 0


def test_the_server_part_trains_as_clients_do_unless_told_otherwise() -> None:
    """Break it: take 0 or "same" for a value, or change a field that has no key of the server."""
    config = config_of(
        optimizer="adamw",
        learning_rate=0.3,
        learning_rate_schedule="cosine",
        momentum=0.6,
        weight_decay=0.2,
        clip_norm=1.5,
        warmup_rounds=2,
        num_server_rounds=7,
        seed=11,
    )
    clients = Training.of_clients(config)
    assert clients == Training(
        optimizer="adamw",
        learning_rate=0.3,
        schedule="cosine",
        decay=config.learning_rate_decay,
        decay_rounds=config.decay_rounds,
        warmup_rounds=2,
        num_rounds=7,
        momentum=0.6,
        weight_decay=0.2,
        clip_norm=1.5,
        seed=11,
    )
    assert Training.of_server(config) == clients

    other = Config.load(
        config,
        {
            "server.learning-rate": 0.02,
            "server.learning-rate-schedule": "constant",
            "server.clip-norm": 0.0,
        },
    )
    assert Training.of_clients(other) == clients
    assert Training.of_server(other) == replace(
        clients, learning_rate=0.02, schedule="constant", clip_norm=0.0
    )


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW)])
def test_optimizers_are_those_of_the_config(name: str, kind: type) -> None:
    config = config_of(optimizer=name, learning_rate=0.3, weight_decay=0.2, momentum=0.6)
    optimizer = optimizer_of(nn.Linear(2, 2).parameters(), config)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.2)
    assert group.get("momentum") == (0.6 if name == "sgd" else None)


def test_an_optimizer_holds_the_parameters_that_train_and_may_hold_none() -> None:
    """Break it: hand torch the list itself; it refuses an empty one."""
    part = nn.Linear(2, 2)
    part.weight.requires_grad_(False)
    optimizer = training_of().make_optimizer(part.named_parameters())
    assert [id(weight) for weight in optimizer.param_groups[0]["params"]] == [id(part.bias)]
    empty = training_of().make_optimizer(part.requires_grad_(False).named_parameters())
    assert empty.param_groups[0]["params"] == []
    training_of(clip_norm=1.0).update(empty)


def test_an_optimizer_of_a_later_round_has_its_rate() -> None:
    training = training_of(learning_rate_schedule="step", decay_rounds=2, learning_rate_decay=0.5)
    layer = nn.Linear(1, 1)
    rates = [
        training.make_optimizer(layer.named_parameters(), server_round).param_groups[0]["lr"]
        for server_round in (1, 2, 3, 5)
    ]
    assert rates == [0.1, 0.1, 0.05, 0.025]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_new_rate_keeps_the_optimizers_state(name: str) -> None:
    """Break it: make a new optimizer for the rate."""
    training = training_of(
        optimizer=name, learning_rate_schedule="step", decay_rounds=1, learning_rate_decay=0.25
    )
    part = server_part_of()
    optimizer = training.make_optimizer(part.named_parameters())
    server_step(part, optimizer, HIDDEN, LABELS)
    state = optimizer_state(optimizer)
    training.set_rate(optimizer, 2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025]
    assert state
    for one, other in zip(state, optimizer_state(optimizer), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("clip_norm", [0.0, 0.5, 1000.0])
def test_an_update_limits_the_norm_of_all_gradients_together(clip_norm: float) -> None:
    """Break it: clip each tensor by itself."""
    part = nn.Linear(2, 2)
    for weight, value in zip(part.parameters(), (3.0, 4.0), strict=True):
        weight.grad = torch.full_like(weight, value)
    norm = math.sqrt(4 * 9 + 2 * 16)
    factor = min(1.0, clip_norm / norm) if clip_norm else 1.0
    before = weights_of(part)
    training_of(clip_norm=clip_norm).update(SGD(part.parameters(), lr=0.1))
    after = weights_of(part)
    for name, gradient in (("weight", 3.0), ("bias", 4.0)):
        torch.testing.assert_close(
            after[name], before[name] - 0.1 * factor * gradient, atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_an_update_equals_torchs_clip_and_step(name: str) -> None:
    part, reference = server_part_of(), server_part_of()
    training = training_of(optimizer=name, clip_norm=0.2)
    optimizer = training.make_optimizer(part.named_parameters())
    theirs = training.make_optimizer(reference.named_parameters())
    for _ in range(3):
        server_step(part, optimizer, HIDDEN, LABELS, training)
        theirs.zero_grad()
        torch.autograd.backward(torch.nn.functional.cross_entropy(reference(HIDDEN), LABELS))
        norm = nn.utils.clip_grad_norm_(reference.parameters(), 0.2)
        assert norm > 0.2
        theirs.step()
    assert_same_bits(weights_of(part), weights_of(reference))


def test_a_part_without_gradients_is_clipped_to_no_harm() -> None:
    part = nn.Linear(2, 2)
    before = weights_of(part)
    training_of(clip_norm=0.5).update(SGD(part.parameters(), lr=0.1))
    assert_same_bits(weights_of(part), before)
