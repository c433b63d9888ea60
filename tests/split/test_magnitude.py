"""One finite batch must not ruin a server part, and its sender is named."""

from __future__ import annotations

import pytest
import torch

from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.magnitude import Magnitudes, magnitudes

FRAME = Frame(Kind.SMASHED_DATA, 3)


def check(found: Magnitudes, participant: int, largest: float) -> None:
    found.check(FRAME, participant, torch.tensor([[largest / 2, -largest]]))


def test_the_magnitude_is_the_largest_absolute_value_of_floating_tensors() -> None:
    state = {"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([7])}
    assert magnitudes(state) == {"a": 3.0}
    assert magnitudes(torch.tensor([2.0])) == {"hidden": 2.0}


def test_a_batch_far_larger_than_the_initial_ones_is_refused_and_its_sender_named() -> None:
    """Break it: take the first batch for what the run has shown."""
    found = Magnitudes({"hidden": 2.0}, 10.0)
    check(found, 1, 20.0)
    with pytest.raises(
        ChannelError,
        match=r"step 3 of client 4 has values up to 20\.1 in 'hidden', where .* reach 2 so far",
    ):
        check(found, 4, 20.1)


def test_one_participant_that_grows_moves_nothing_and_all_of_them_can_grow() -> None:
    """Break it: take the mean, or the largest, and each round can be ten times the last."""
    found = Magnitudes({"hidden": 1.0}, 10.0)
    for _ in range(3):
        check(found, 0, 9.0)
        for honest in (1, 2):
            check(found, honest, 1.5)
    assert found.shown("hidden") == 1.5
    with pytest.raises(ChannelError):
        check(found, 0, 16.0)
    for size in (5.0, 20.0, 80.0):
        for participant in (0, 1, 2):
            check(found, participant, size)
    assert found.shown("hidden") == 80.0


def test_what_a_refused_batch_shows_does_not_count() -> None:
    found = Magnitudes({"hidden": 1.0}, 10.0)
    for participant in range(5):
        with pytest.raises(ChannelError):
            check(found, participant, 1e18)
    assert found.shown("hidden") == 1.0


def test_a_factor_of_0_bounds_nothing() -> None:
    check(Magnitudes({"hidden": 1.0}, 0.0), 1, 1e30)


def test_it_continues_from_its_state() -> None:
    first, second = Magnitudes({"hidden": 1.0}, 10.0), Magnitudes({"hidden": 1.0}, 10.0)
    for participant in range(3):
        check(first, participant, 8.0)
    second.load_state_dict(first.state_dict())
    assert second.shown("hidden") == first.shown("hidden") == 8.0
    check(second, 1, 79.0)


def test_a_bottom_that_begins_with_zeros_can_learn() -> None:
    found = Magnitudes({"hidden": 0.0}, 10.0)
    check(found, 0, 0.009)
