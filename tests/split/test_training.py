from __future__ import annotations

import math

import pytest
import torch
from fedsplit.split.schedule import learning_rate
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from tests.split.toys import config_of


def rates(**keys: object) -> list[float]:
    config = config_of(learning_rate=0.8, num_server_rounds=8, **keys)
    return [learning_rate(config, server_round) for server_round in range(1, 9)]


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
def test_they_are_torchs_own_schedules(schedule: str) -> None:
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
