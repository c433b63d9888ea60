"""Parallel split learning, when the examples of one participant overflow in the server part."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedsplit.errors import ChannelError
from fedsplit.seeding import seeded_init
from fedsplit.split.concatenated import Concatenated
from tests.split.reference import at_once
from tests.split.toys import (
    Batch,
    assert_close,
    assert_same_bits,
    batches_of,
    config_of,
    optimizer_of,
    settings_of,
    weights_of,
)


def _smashed(participant: int, size: int) -> Batch:
    images, labels = batches_of(participant, size)[0]
    return images[:, :4], labels


def test_overflowing_examples_of_one_participant_harm_no_other() -> None:
    """Break it: assume that zero times its overflowed rows is zero; it is NaN.

    What it sends is finite and passes the check; its loss is not.
    """
    with seeded_init(0):
        first = nn.Linear(4, 5)
        part = nn.Sequential(first, nn.GELU(), nn.LayerNorm(5), nn.Linear(5, 5))
    with torch.no_grad():
        first.weight.fill_(0.5)
    start = copy.deepcopy(part)
    rule = Concatenated(part, settings_of(config_of()))
    rule.open_round(1, [0, 1, 2])
    huge = torch.full((2, 4), 3e38), torch.tensor([1, 1])
    data = {0: _smashed(0, 4), 1: huge, 2: _smashed(2, 3)}

    def step(k: int) -> str:
        try:
            rule.step(k, *data[k])
        except ChannelError as error:
            rule.drop(k)
            return str(error)
        return "trained"

    outcomes = at_once(step, range(3))
    assert "loss of a batch is nan" in outcomes[1]
    assert (outcomes[0], outcomes[2]) == ("trained", "trained")
    optimizer = optimizer_of(start.parameters(), config_of())
    hidden, labels = (torch.cat([data[0][i], data[2][i]]) for i in (0, 1))
    torch.autograd.backward(cross_entropy(start(hidden), labels))
    optimizer.step()
    assert_close(weights_of(part), weights_of(start))
    rule.close()


def test_overflowing_gradients_with_nobody_missing_fail_everyone() -> None:
    """Break it: retry even if nobody is missing; it would never end."""
    part = nn.Linear(4, 5)
    with torch.no_grad():
        part.weight.zero_()
        part.bias.zero_()
    rule, before = Concatenated(part, settings_of(config_of())), weights_of(part)
    rule.open_round(1, [0, 1])

    def step(k: int) -> str:
        with pytest.raises(ChannelError) as error:
            rule.step(k, torch.full((4, 4), 3e38), torch.zeros(4).long())
        return str(error.value)

    assert set(at_once(step, [0, 1]).values()) == {
        "Training diverged: the gradient of a step has NaN or infinity in it. Lower learning-rate."
    }
    assert_same_bits(weights_of(part), before)
    rule.close()
