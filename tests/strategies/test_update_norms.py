from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict

from fedsplit.arrays import to_record
from fedsplit.messages import Measurements
from fedsplit.snapshot import from_bytes, to_bytes
from strategies.update_norms import UpdateNorms

SENT = to_record({"w": torch.full((4,), 100.0), "count": torch.tensor(3)})


def began_with(client: int) -> ArrayRecord:
    return SENT


def replies(moved: Mapping[int, float], examples: Mapping[int, int]) -> dict[int, Message]:
    """Each client's reply, whose weights have moved by so much."""
    found = {}
    for client, norm in moved.items():
        told = Measurements(
            num_examples=examples.get(client, 8), loss=0.5, accuracy=0.5, channel_seconds=0.0
        )
        weights = {"w": torch.full((4,), 100.0) + norm / 2, "count": torch.tensor(10**9)}
        content = RecordDict({"arrays": to_record(weights), "metrics": told.to_record()})
        found[client] = Message(content, reply_to=Message(RecordDict(), client + 1, "train"))
    return found


def refused(norms: UpdateNorms, moved: Mapping[int, float], **examples: int) -> list[int]:
    by_client = {int(client.removeprefix("of_")): n for client, n in examples.items()}
    return list(norms.faults(replies(moved, by_client), began_with))


def test_an_update_far_larger_than_the_others_is_refused_and_named() -> None:
    """Integers do not count. Break it: compare with the mean, which one client moves."""
    faults = UpdateNorms(10.0).faults(replies({0: 1.0, 1: 2.0, 2: 3.0, 3: 1e9}, {}), began_with)
    assert list(faults) == [3]
    assert faults[3] == (
        "its weights have moved by 1e+09, where those of the run move by 2: more than "
        "aggregation.update-factor = 10 times as far; lower learning-rate, if this client is honest"
    )


@pytest.mark.parametrize("norm", [1e30, -1e30, 1e38])
def test_no_finite_weight_is_too_large_to_be_measured(norm: float) -> None:
    """Break it: square in single precision."""
    faults = UpdateNorms(10.0).faults(replies({0: 1.0, 1: 1.0, 2: norm}, {}), began_with)
    assert list(faults) == [2]
    assert f"moved by {abs(norm):.3g}," in faults[2]


def test_up_to_the_factor_is_fine() -> None:
    norms = UpdateNorms(10.0)
    assert refused(norms, {0: 2.0, 1: 2.0, 2: 19.9}) == []
    assert refused(norms, {0: 2.0, 1: 2.0, 2: 20.1}) == [2]


def test_all_may_grow_together() -> None:
    """Break it: compare with the round before only."""
    norms = UpdateNorms(10.0)
    for size in (1.0, 50.0, 2500.0):
        assert refused(norms, {0: size, 1: size, 2: size}) == []


def test_who_has_more_examples_may_move_farther() -> None:
    """Break it: leave the numbers of examples out of the comparison."""
    assert refused(UpdateNorms(10.0), {0: 1.0, 1: 1.0, 2: 50.0}, of_2=80) == []
    assert refused(UpdateNorms(10.0), {0: 1.0, 1: 1.0, 2: 150.0}, of_2=80) == [2]
    assert refused(UpdateNorms(10.0), {0: 9.0, 1: 1.0, 2: 1.0}, of_0=1) == []  # nor less far


def test_with_two_clients_only_the_rounds_before_and_the_other_are_known() -> None:
    """In the first round nobody can tell who is right.

    Break it: take the smaller of two for the right one, or only the rounds before.
    """
    norms = UpdateNorms(10.0)
    assert refused(norms, {0: 1.0, 1: 100.0}) == []
    assert refused(norms, {0: 999.0, 1: 999.0}) == []
    assert refused(norms, {0: 110000.0, 1: 1.0}) == [0]
    assert refused(norms, {0: 110000.0, 1: 110000.0}) == []  # where a plateau ends


def test_a_runs_only_client_is_never_refused() -> None:
    """An honest one with sgd moved 11 times as far in its second round as in its first.

    Break it: compare it with itself.
    """
    norms = UpdateNorms(10.0)
    for norm in (1.0, 11.0, 1e6):
        assert refused(norms, {0: norm}) == []


def test_where_nobody_has_shown_anything_nobody_is_refused() -> None:
    """Break it: compare with the norm of the weights.

    Two honest clients with adam at 0.01 moved theirs to 11 times that norm from random weights.
    """
    assert refused(UpdateNorms(10.0), {0: 1.0, 1: 2001.0}) == []


def test_one_at_a_time_is_compared_with_the_others_last() -> None:
    """As in sequential. Break it: compare with the largest before."""
    norms = UpdateNorms(10.0)
    for client in range(4):
        assert refused(norms, {client: 1.0}) == []
    assert refused(norms, {3: 50.0}) == [3]
    assert refused(norms, {3: 5.0}) == []
    assert refused(norms, {3: 50.0}) == [3]  # still: its own last counts once


def test_a_rate_of_0_refuses_nobody() -> None:
    """Break it: let what is shown be 0."""
    norms = UpdateNorms(10.0)
    assert refused(norms, {0: 0.0, 1: 0.0, 2: 0.0}) == []
    assert refused(norms, {0: 0.0, 1: 0.0, 2: 0.1}) == []  # one in 2,000
    assert refused(norms, {0: 0.0, 1: 0.0, 2: 0.3}) == [2]


def test_0_switches_it_off() -> None:
    assert refused(UpdateNorms(0.0), {0: 1.0, 1: 1.0, 2: 1e30}) == []


def test_it_continues_from_what_was_saved() -> None:
    """Break it: save nothing; the first round of a continued run would know nothing."""
    first, second = UpdateNorms(10.0), UpdateNorms(10.0)
    assert refused(first, {0: 1.0, 1: 2.0}) == []
    second.load_state_dict(from_bytes(to_bytes(first.state_dict())))
    assert refused(second, {0: 30.0}) == [0]  # as it is not the only one
    assert second.state_dict() == first.state_dict()
