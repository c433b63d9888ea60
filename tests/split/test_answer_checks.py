from __future__ import annotations

import pytest
import torch

from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.answer_checks import AnswerChecks
from fedsplit.split.payload import Content


def gradient(checks: AnswerChecks, largest: float, batch_size: int = 2) -> None:
    state = torch.zeros(batch_size, 3)
    state[0, 1] = -largest
    checks.check(Frame(Kind.CUT_GRADIENT, 4), Content(state, {}, batch_size))


def scores(checks: AnswerChecks, loss: float, num_correct: int) -> None:
    found = {"loss": torch.tensor(loss), "num-correct": torch.tensor(num_correct)}
    checks.check(Frame(Kind.EVALUATION, 0), Content({}, found, 8))


@pytest.mark.parametrize("num_correct", [-1, 9, 2**40])
def test_no_more_predictions_can_be_correct_than_there_are_examples(num_correct: int) -> None:
    """Break it: believe any number of correct predictions."""
    for right in (0, 8):
        scores(AnswerChecks(), 0.5, right)
    with pytest.raises(ChannelError, match=f"{num_correct} correct predictions for 8 examples"):
        scores(AnswerChecks(), 0.5, num_correct)


def test_a_cross_entropy_is_not_below_0() -> None:
    """Break it: believe any finite loss."""
    scores(AnswerChecks(cross_entropy=True), 0.0, 8)
    scores(AnswerChecks(), -1.0, 8)  # another loss may be
    with pytest.raises(ChannelError, match=r"loss -1e-06, and a cross-entropy is at least 0"):
        scores(AnswerChecks(cross_entropy=True), -1e-6, 8)


def test_a_cut_gradient_far_larger_than_all_before_is_refused() -> None:
    """Break it: keep the refused one as what was seen."""
    checks = AnswerChecks(100.0)
    gradient(checks, 0.5)
    gradient(checks, 1e-9)  # what is learned has small gradients, and the next image may be new
    gradient(checks, 49.0)
    checks = AnswerChecks(100.0, {"hidden": 1.0})
    for _ in range(2):
        with pytest.raises(ChannelError, match="CUT_GRADIENT frame of step 4 has values up to 102"):
            gradient(checks, 51.0)
    assert checks.largest == {"hidden": 1.0}


def test_gradients_are_those_of_one_example() -> None:
    """Break it: compare a batch of 1 with one of 32 as if both were means of as many."""
    checks = AnswerChecks(100.0)
    gradient(checks, 1.0, batch_size=32)
    gradient(checks, 32.0, batch_size=1)
    assert checks.largest == {"hidden": 32.0}


def test_the_first_gradient_of_a_run_and_small_ones_are_accepted() -> None:
    """Break it: let a head that begins with zeros forbid everything after."""
    checks = AnswerChecks(100.0)
    gradient(checks, 0.0)
    gradient(checks, 49.0)
    gradient(AnswerChecks(100.0), 1e9)


def test_0_switches_it_off() -> None:
    checks = AnswerChecks()
    gradient(checks, 1.0)
    gradient(checks, 1e30)
