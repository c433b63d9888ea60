"""One finite batch must not ruin a server part, and its sender is named."""

from __future__ import annotations

import pytest
import torch

from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.magnitude import GradientMagnitudes, Magnitudes, magnitudes
from fedsplit.split.payload import Content

FRAME = Frame(Kind.SMASHED_DATA, 3)


def check(found: Magnitudes, participant: int, largest: float) -> None:
    found.check(FRAME, participant, Content(torch.tensor([[largest / 2, -largest]]), {}, 1))


def test_the_magnitude_is_the_largest_absolute_value_of_floating_tensors() -> None:
    state = {"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([7])}
    assert magnitudes(state) == {"a": 3.0}
    assert magnitudes(torch.tensor([2.0])) == {"hidden": 2.0}


def test_a_batch_far_larger_than_the_initial_ones_is_refused_and_its_sender_named() -> None:
    """Break it: take the first batch for what the run has shown."""
    found = Magnitudes({"hidden": 2.0}, 10.0)
    for participant in (1, 2, 3):
        check(found, participant, 1.0)
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
        for honest in (1, 2, 3):
            check(found, honest, 1.5)
    assert found.shown("hidden", 0) == found.shown("hidden", 1) == 1.5
    with pytest.raises(ChannelError):
        check(found, 0, 16.0)
    for size in (5.0, 20.0, 80.0):
        for participant in (0, 1, 2, 3):
            check(found, participant, size)
    assert found.shown("hidden", 0) == 80.0


def test_one_that_shrinks_does_not_get_the_others_refused() -> None:
    """Break it: compare with the smaller of two others."""
    found = Magnitudes({"hidden": 1.0}, 10.0)
    for size in (5.0, 40.0):
        check(found, 0, 0.001)
        for honest in (1, 2):
            check(found, honest, size)


def test_while_few_have_sent_anything_one_can_grow_to_the_square_of_the_factor() -> None:
    """The first of a sequence grows while nobody else has shown anything.

    Break it: leave out its own last batch, or do not bound it.
    """
    found = Magnitudes({"hidden": 2.0}, 10.0)
    for size in (8.0, 30.0, 199.0):
        check(found, 0, size)
    with pytest.raises(ChannelError, match=r"reach 20 so far"):
        check(found, 0, 201.0)
    check(found, 1, 240.0)  # where the first one has come
    check(found, 1, 260.0)


def test_the_only_client_of_a_run_is_compared_with_itself() -> None:
    """Break it: leave out `expect`, and an honest run of one client ends."""
    found = Magnitudes({"hidden": 1.0}, 10.0)
    found.expect(1)
    for size in (9.0, 80.0, 700.0, 6000.0):
        check(found, 0, size)
    with pytest.raises(ChannelError):
        check(found, 0, 1e6)


def test_what_a_refused_batch_shows_does_not_count() -> None:
    found = Magnitudes({"hidden": 1.0}, 10.0)
    for participant in range(5):
        with pytest.raises(ChannelError):
            check(found, participant, 1e18)
    assert found.shown("hidden", 0) == 1.0


def test_a_factor_of_0_bounds_nothing() -> None:
    check(Magnitudes({"hidden": 1.0}, 0.0), 1, 1e30)


def test_it_continues_from_its_state() -> None:
    first, second = Magnitudes({"hidden": 1.0}, 10.0), Magnitudes({"hidden": 1.0}, 10.0)
    for participant in range(4):
        check(first, participant, 8.0)
    second.load_state_dict(first.state_dict())
    assert second.shown("hidden", 0) == first.shown("hidden", 0) == 8.0
    check(second, 1, 79.0)


def test_a_bottom_that_begins_with_zeros_can_learn() -> None:
    """Its first step makes it larger by any factor. Break it: take 0.001 for the smallest."""
    found = Magnitudes({"hidden": 0.0}, 10.0)
    check(found, 0, 0.6)


def gradient(found: Magnitudes, participant: int, largest: float, batch_size: int = 1) -> None:
    state = torch.tensor([[largest / 2, -largest]]).expand(batch_size, 2)
    found.check(Frame(Kind.OUTPUT_GRADIENT, 3), participant, Content(state, {}, batch_size))


def test_an_output_gradient_far_larger_than_those_of_the_run_is_refused() -> None:
    """Break it: compare a mean over 8 examples with one of a single one."""
    found = GradientMagnitudes({"hidden": 0.5}, 10.0)
    gradient(found, 1, 0.6, batch_size=8)
    for participant in (2, 3):
        gradient(found, participant, 0.06, batch_size=8)
    with pytest.raises(
        ChannelError,
        match=r"OUTPUT_GRADIENT .*of client 4 has values up to 5\.1 in 'hidden'.*reach 0\.5 so far"
        r": more than channel\.output-gradient-factor = 10",
    ):
        gradient(found, 4, 5.1)
    with pytest.raises(ChannelError, match=r"values up to 5\.6 in"):
        gradient(found, 4, 0.7, batch_size=8)


def test_small_gradients_after_large_ones_do_not_bind() -> None:
    """Break it: take each participant's last gradient, and not its largest."""
    found = GradientMagnitudes({"hidden": 0.5}, 10.0)
    for largest in (4.0, 1e-9):
        for participant in range(4):
            gradient(found, participant, largest)
    assert found.shown("hidden", 0) == 4.0
    gradient(found, 0, 39.0)
    assert found.shown("hidden", 1) == 4.0  # one participant moves nothing


def test_a_head_that_begins_with_zeros_can_learn_and_rare_classes_may_weigh() -> None:
    """Break it: leave out `weigh`; a client with a rare class is refused."""
    found = GradientMagnitudes({"hidden": 0.0}, 10.0)
    gradient(found, 0, 0.99)
    found = GradientMagnitudes({"hidden": 1.0}, 10.0)
    with pytest.raises(ChannelError):
        gradient(found, 0, 11.0)
    found.weigh(20.0)
    gradient(found, 0, 199.0)
    found.weigh(0.5)  # classes that weigh less than 1 bind nobody
    gradient(found, 0, 199.0)
    plain = Magnitudes({"hidden": 1.0}, 10.0)
    plain.weigh(20.0)  # smashed data do not depend on the loss
    with pytest.raises(ChannelError):
        check(plain, 0, 11.0)
