from __future__ import annotations

from typing import cast

import pytest
import torch
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from fedsplit.arrays import to_record
from fedsplit.client_state import (
    check_kept,
    keep_optimizer,
    keep_rule,
    keep_weights,
    kept_weights,
    mark_kept,
    restore_optimizer,
    restore_rule,
)
from fedsplit.errors import RunError
from fedsplit.messages import KEPT_RECORDS, KEPT_ROUND, KEPT_WEIGHTS
from fedsplit.seeding import seeded_init
from fedsplit.snapshot import Snapshot
from fedsplit.split.client_rules import ClientSide, WholeModel
from fedsplit.split.training import Training
from tests.split.toys import (
    assert_same_bits,
    batches_of,
    bottom_of,
    config_of,
    optimizer_of,
    server_part_of,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("plain_threads")
KINDS = [("sgd", 0.9), ("sgd", 0.0), ("adam", 0.0), ("adamw", 0.0)]


def model_of() -> nn.Module:
    return nn.Sequential(bottom_of(), server_part_of())


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    batches = batches_of(0, *([8] * steps.stop))
    for step in steps:
        optimizer.zero_grad()
        images, labels = batches[step]
        torch.autograd.backward(cross_entropy(model(images), labels))
        optimizer.step()


def through_flower(state: RecordDict) -> RecordDict:
    """Take a state through bytes, as Flower does from one process to another."""
    return recorddict_from_proto(recorddict_to_proto(state))


def deep_model_of() -> nn.Module:
    with seeded_init(3):
        hidden = [nn.Linear(4, 4) for _ in range(5)]
        return nn.Sequential(nn.Linear(6, 4), *hidden, nn.Linear(4, 5))


@pytest.mark.parametrize(("optimizer", "momentum"), KINDS)
def test_a_kept_optimizer_trains_on_as_one_that_lives_on(optimizer: str, momentum: float) -> None:
    """Break it: keep no step counts, or read the tensors' indices in the order of their names.

    More than ten tensors, so that "10" stands before "2".
    """
    config = config_of(optimizer=optimizer, momentum=momentum, learning_rate=0.02, weight_decay=0.1)
    model, twin = deep_model_of(), deep_model_of()
    living = optimizer_of(model.parameters(), config)
    state = RecordDict()
    for start in (0, 3, 5):
        steps = range(start, start + 3)
        train(model, living, steps)
        fresh = optimizer_of(twin.parameters(), config)
        restore_optimizer(state, fresh)
        train(twin, fresh, steps)
        state = RecordDict()
        keep_optimizer(state, fresh)
        state = through_flower(state)
        assert_same_bits(weights_of(twin), weights_of(model))


def test_the_kept_state_makes_a_difference() -> None:
    """... or the test above would prove nothing."""
    after = []
    for keep in (True, False):
        model = model_of()
        state = RecordDict()
        for start in (0, 3):
            optimizer = optimizer_of(model.parameters(), config_of())
            if keep:
                restore_optimizer(state, optimizer)
            train(model, optimizer, range(start, start + 3))
            keep_optimizer(state, optimizer)
        after.append(weights_of(model))
    assert any(not torch.equal(after[0][name], after[1][name]) for name in after[0])


def test_the_rate_is_the_new_rounds() -> None:
    """Break it: keep and load the whole state dict, whose groups have the old rate."""
    model, state = model_of(), RecordDict()
    config = config_of(learning_rate_schedule="step", decay_rounds=1, learning_rate_decay=0.5)
    training = Training.of_clients(config)
    first = training.make_optimizer(model.named_parameters(), 1)
    train(model, first, range(2))
    keep_optimizer(state, first)
    second = training.make_optimizer(model.named_parameters(), 3)
    restore_optimizer(state, second)
    assert second.param_groups[0]["lr"] == pytest.approx(0.025)
    for one, other in zip(first.state.values(), second.state.values(), strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])
        assert one["momentum_buffer"].abs().sum() > 0


def test_nothing_kept_is_a_fresh_start() -> None:
    optimizer = optimizer_of(model_of().parameters(), config_of())
    restore_optimizer(RecordDict(), optimizer)
    assert optimizer.state_dict()["state"] == {}


def test_weights_are_kept_bit_by_bit() -> None:
    model, state = model_of(), RecordDict()
    keep_weights(state, to_record(model.state_dict()))
    kept = weights_of(model)
    with torch.no_grad():
        next(model.parameters()).zero_()  # what is trained later must not reach what is kept
    assert_same_bits(dict(kept_weights(through_flower(state)).to_torch_state_dict()), kept)


def test_lost_weights_are_an_error_that_says_what_to_do() -> None:
    state = RecordDict()
    keep_optimizer(state, optimizer_of(model_of().parameters(), config_of()))
    with pytest.raises(RunError, match=r"lost the weights .* Keep a SuperNode running"):
        kept_weights(state)


def kept_in(server_round: int) -> RecordDict:
    state = RecordDict()
    keep_optimizer(state, optimizer_of(model_of().parameters(), config_of()))
    mark_kept(state, server_round)
    return state


@pytest.mark.parametrize("expected", [3, -1])
def test_what_is_of_the_expected_round_is_continued(expected: int) -> None:
    state = kept_in(3)
    check_kept(state, expected)
    assert set(state) == {KEPT_RECORDS[0], KEPT_ROUND}
    nothing = RecordDict()
    check_kept(nothing, min(expected, 0))
    mark_kept(nothing, 4)
    assert set(nothing) == set()


@pytest.mark.parametrize(
    ("state", "has"), [(kept_in(1), "is of round 1"), (RecordDict(), "is lost")]
)
def test_what_is_of_another_round_is_refused_and_forgotten(state: RecordDict, has: str) -> None:
    """Break it: continue from it. It trains on, with the moments of another round."""
    with pytest.raises(RunError, match=rf"{has}, but the last .* that counted is 3"):
        check_kept(state, 3)
    assert set(state) == set()


def test_what_is_of_a_round_that_did_not_count_is_forgotten_if_none_has() -> None:
    state = kept_in(1)
    check_kept(state, 0)
    assert set(state) == set()


def test_weights_and_optimizer_are_kept_side_by_side() -> None:
    model, state = model_of(), RecordDict()
    optimizer = optimizer_of(model.parameters(), config_of(optimizer="adam"))
    train(model, optimizer, range(1))
    keep_weights(state, to_record(model.state_dict()))
    keep_optimizer(state, optimizer)
    keep_weights(state, to_record(model.state_dict()))
    assert set(state) == {KEPT_WEIGHTS, KEPT_RECORDS[0]}
    assert list(kept_weights(state)) == list(model.state_dict())
    again = optimizer_of(model.parameters(), config_of(optimizer="adam"))
    restore_optimizer(state, again)
    assert [float(values["step"]) for values in again.state.values()] == [1.0] * 6


class _Stateful(WholeModel):
    def __init__(self, kept: Snapshot) -> None:
        super().__init__(cast("ClientSide", None))
        self.kept = kept

    def state_dict(self) -> Snapshot:
        return self.kept

    def load_state_dict(self, state: Snapshot) -> None:
        self.kept = state


def test_a_rule_that_keeps_nothing_clears_what_it_kept_before() -> None:
    """Break it: keep only what is not empty; the state of an earlier round then comes back."""
    state = RecordDict()
    later, last = _Stateful({}), _Stateful({"fresh": True})
    keep_rule(state, _Stateful({"pending": 1}))
    restore_rule(state, later)
    assert later.kept == {"pending": 1}
    keep_rule(state, _Stateful({}))
    restore_rule(state, last)
    assert last.kept == {"fresh": True}


def test_a_poisoned_optimizer_or_rule_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    """A gradient of 1e25 is finite, and its square is not. Break it: keep whatever there is."""
    model, state = model_of(), RecordDict()
    optimizer = optimizer_of(model.parameters(), config_of(optimizer="adam"))
    train(model, optimizer, range(2))
    keep_optimizer(state, optimizer)
    first = next(model.parameters())
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 1e25 if weight is first else 0.0)
    optimizer.step()
    assert not torch.isfinite(optimizer.state[first]["exp_avg_sq"]).any()
    keep_optimizer(state, optimizer)
    keep_rule(state, _Stateful({"scale": torch.tensor(float("nan"))}))
    again = optimizer_of(model.parameters(), config_of(optimizer="adam"))
    restore_optimizer(state, again)
    assert all(torch.isfinite(values["exp_avg_sq"]).all() for values in again.state.values())
    assert [float(values["step"]) for values in again.state.values()] == [2.0] * 6
    assert KEPT_RECORDS[1] not in state
    assert "optimizer of a client holds NaN or infinity" in caplog.text
