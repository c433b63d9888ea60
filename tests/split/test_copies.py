from __future__ import annotations

import gc
import itertools
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from fedsplit.errors import ChannelError, RunError
from fedsplit.seeding import seeded_init
from fedsplit.split import copies
from fedsplit.split.copies import PerParticipantCopies
from tests.split.reference import server_step
from tests.split.toys import (
    Weights,
    assert_close,
    assert_same_bits,
    average_by_hand,
    batches_of,
    bottom_of,
    config_of,
    optimizer_of,
    server_part_of,
    settings_of,
    weights_of,
)

SIZES = {0: (8, 8), 1: (8, 3), 2: (1,), 5: (8, 8, 8, 7)}


def rule_of(server_part: nn.Module | None = None, **overrides: object) -> PerParticipantCopies:
    server_part = server_part_of() if server_part is None else server_part
    return PerParticipantCopies(server_part, settings_of(config_of(**overrides)))


def smashed_of(participant: int, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    bottom = bottom_of()
    with torch.no_grad():
        return [(bottom(images), labels) for images, labels in batches_of(participant, *sizes)]


def train(rule: PerParticipantCopies, participant: int, *sizes: int) -> int:
    rule.begin(participant)
    dtype = next(rule.server_part.parameters()).dtype
    for smashed, labels in smashed_of(participant, *sizes):
        rule.step(participant, smashed.to(dtype), labels)
    rule.finish(participant)
    return sum(sizes)


def trained_by_hand(participant: int, *sizes: int, **overrides: object) -> Weights:
    server_part = server_part_of()
    optimizer = optimizer_of(server_part.parameters(), config_of(**overrides))
    for smashed, labels in smashed_of(participant, *sizes):
        server_step(server_part, optimizer, smashed, labels)
    return weights_of(server_part)


def names_of(rule: PerParticipantCopies) -> list[str]:
    return [file.name for file in rule.finished_files]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_round_is_the_average_by_examples(optimizer: str) -> None:
    rule = rule_of(optimizer=optimizer)
    counts = {k: train(rule, k, *sizes) for k, sizes in SIZES.items()}
    assert counts == {0: 16, 1: 11, 2: 1, 5: 31}
    rule.close_round(counts)
    trained = [trained_by_hand(k, *sizes, optimizer=optimizer) for k, sizes in SIZES.items()]
    average = average_by_hand(trained, [16, 11, 1, 31])
    assert_close(weights_of(rule.server_part), average, atol=1e-7)
    # The plain mean and each single copy are far from it.
    for other in (average_by_hand(trained, [1, 1, 1, 1]), *trained):
        assert max(float((average[n] - other[n]).abs().max()) for n in average) > 1e-4
    rule.close()


def test_the_optimizer_starts_fresh_each_round() -> None:
    rule = rule_of()
    rule.close_round({0: train(rule, 0, 8, 8)})
    rule.close_round({0: train(rule, 0, 8)})
    server_part = server_part_of()
    for sizes in ((8, 8), (8,)):
        optimizer = optimizer_of(server_part.parameters(), config_of())
        for smashed, labels in smashed_of(0, *sizes):
            server_step(server_part, optimizer, smashed, labels)
    assert_same_bits(weights_of(rule.server_part), weights_of(server_part))
    rule.close()


def test_the_order_of_finishing_does_not_change_a_bit() -> None:
    results = []
    for order in itertools.islice(itertools.permutations(SIZES), 0, None, 5):
        # In double precision the sum is not cast, so every bit of it counts.
        rule = rule_of(server_part_of().double())
        counts = {k: train(rule, k, *SIZES[k]) for k in order}
        rule.close_round(counts)
        results.append(weights_of(rule.server_part))
        rule.close()
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_interleaved_and_threaded_participants_do_not_touch_each_other() -> None:
    rule = rule_of()
    counts = {k: train(rule, k, *sizes) for k, sizes in SIZES.items()}
    rule.close_round(counts)
    interleaved = rule_of()
    data = {k: smashed_of(k, *sizes) for k, sizes in SIZES.items()}
    for k in SIZES:
        interleaved.begin(k)
    for step in range(4):
        for k in SIZES:
            if step < len(data[k]):
                interleaved.step(k, *data[k][step])
    for k in reversed(SIZES):
        interleaved.finish(k)
    interleaved.close_round(counts)
    threaded = rule_of()
    with ThreadPoolExecutor(len(SIZES)) as pool:
        list(pool.map(lambda k: train(threaded, k, *SIZES[k]), SIZES))
    threaded.close_round(counts)
    for other in (interleaved, threaded):
        assert_same_bits(weights_of(other.server_part), weights_of(rule.server_part))
        other.close()
    rule.close()


def test_only_the_accepted_count() -> None:
    rule = rule_of()
    counts = {k: train(rule, k, *sizes) for k, sizes in SIZES.items()}
    del counts[5], counts[0]
    rule.close_round(counts)
    trained = [trained_by_hand(k, *SIZES[k]) for k in (1, 2)]
    average = average_by_hand(trained, [11, 1])
    assert_close(weights_of(rule.server_part), average, atol=1e-7)
    assert rule.finished_files == []
    rule.close()


@pytest.mark.parametrize("when", ["training", "finished", "unknown"])
def test_a_dropped_participant_leaves_nothing(when: str) -> None:
    rule = rule_of()
    counts = {0: train(rule, 0, 8)}
    if when == "training":
        rule.begin(1)
        rule.step(1, *smashed_of(1, 8)[0])
    elif when == "finished":
        train(rule, 1, 8)
    rule.drop(1)
    rule.drop(1)
    assert rule.training_now == {}
    assert names_of(rule) == ["0.safetensors"]
    rule.close_round(counts)
    assert_same_bits(weights_of(rule.server_part), trained_by_hand(0, 8))
    rule.close()


def test_a_round_without_contributions_changes_nothing() -> None:
    rule = rule_of()
    before = weights_of(rule.server_part)
    train(rule, 0, 8)
    rule.begin(1)
    rule.close_round({})
    assert_same_bits(weights_of(rule.server_part), before)
    assert (rule.training_now, rule.finished_files) == ({}, [])
    rule.close()


def test_close_removes_the_folder() -> None:
    rule = rule_of()
    train(rule, 0, 8)
    (file,) = rule.finished_files
    rule.close()
    assert rule.finished_files == []
    assert not file.parent.exists()
    rule.close()


class _Counting(nn.Linear):
    """Counts its living copies."""

    alive: weakref.WeakSet[nn.Module]
    most = 0

    def __deepcopy__(self, memo: object) -> _Counting:
        twin = _Counting(self.in_features, self.out_features)
        twin.load_state_dict(self.state_dict())
        _Counting.alive.add(twin)
        _Counting.most = max(_Counting.most, len(_Counting.alive))
        return twin


@pytest.mark.parametrize("at_once", [1, 3])
def test_memory_grows_with_concurrent_training_not_with_participants(at_once: int) -> None:
    _Counting.alive, _Counting.most = weakref.WeakSet(), 0
    rule = rule_of(_Counting(4, 5))
    barrier = threading.Barrier(at_once)

    def work(first: int) -> dict[int, int]:
        counts = {}
        for k in range(first, 21, at_once):
            rule.begin(k)
            barrier.wait(10)  # all of them are in the middle of their training now
            rule.step(k, *smashed_of(k, 4)[0])
            rule.finish(k)
            barrier.wait(10)
            counts[k] = 4
        return counts

    gc.disable()  # memory must not depend on when cycles are collected
    try:
        with ThreadPoolExecutor(at_once) as pool:
            counts = [item for part in pool.map(work, range(at_once)) for item in part.items()]
        assert _Counting.most == at_once
        assert len(_Counting.alive) == 0
        rule.close_round(dict(counts))
        assert len(_Counting.alive) == 0
    finally:
        gc.enable()
    rule.close()


def test_copies_train_whatever_mode_the_server_part_is_in() -> None:
    rule = rule_of(nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 5)).eval())
    rule.begin(0)
    assert rule.training_now[0].training
    assert not rule.server_part.training
    rule.close()


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(4, 5, bias=False)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.into.weight
        self.register_buffer("window", torch.ones(5, 4).t())  # not contiguous

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(x) + self.into(x)
        return logits


def test_tied_weights_stay_tied_and_are_averaged() -> None:
    with seeded_init(0):
        tied = _Tied()
    hands = []
    for k in (0, 1):
        hand = _Tied()
        hand.load_state_dict(tied.state_dict())
        optimizer = optimizer_of(hand.parameters(), config_of())
        for smashed, labels in smashed_of(k, 8, 8):
            server_step(hand, optimizer, smashed, labels)
        hands.append(weights_of(hand))
    rule = rule_of(tied)
    rule.close_round({k: train(rule, k, 8, 8) for k in (0, 1)})
    assert tied.out.weight is tied.into.weight
    assert_close(weights_of(tied), average_by_hand(hands, [16, 16]), atol=1e-7)
    rule.close()


def test_buffers_that_count_are_not_rounded_down() -> None:
    norm = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5))
    assert isinstance(norm[0], nn.BatchNorm1d)
    for participants in (3, 6, 7):
        rule = rule_of(norm)
        norm[0].reset_running_stats()
        rule.close_round({k: train(rule, k, 8, 8, 8) for k in range(participants)})
        assert norm[0].num_batches_tracked is not None
        assert norm[0].num_batches_tracked.item() == 3
        assert norm[0].num_batches_tracked.dtype == torch.int64
        rule.close()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_server_part_keeps_its_dtype(dtype: torch.dtype) -> None:
    part = nn.Linear(4, 5).to(dtype)
    rule = rule_of(part)
    for k in (0, 1):
        rule.begin(k)
        smashed, labels = smashed_of(k, 8)[0]
        rule.step(k, smashed.to(dtype), labels)
        rule.finish(k)
    rule.close_round({0: 8, 1: 8})
    assert part.weight.dtype == dtype
    rule.close()


def test_a_copy_that_has_diverged_is_not_kept() -> None:
    rule = rule_of()
    train(rule, 0, 8)
    rule.begin(1)
    with torch.no_grad():
        next(rule.training_now[1].parameters())[0, 0] = float("nan")
    with pytest.raises(ChannelError, match=r"diverged: client 1's copy .* Lower learning-rate"):
        rule.finish(1)
    assert rule.training_now == {}
    assert names_of(rule) == ["0.safetensors"]
    rule.close()


def test_a_copy_whose_statistics_are_infinite_is_not_kept() -> None:
    """Break it: check parameters only, and the average of the copies is infinite for good."""
    part = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5))
    rule = rule_of(part)
    rule.begin(1)
    smashed, labels = smashed_of(1, 8)[0]
    rule.step(1, smashed * 1e30, labels)
    with pytest.raises(ChannelError, match="client 1's copy of the server part holds NaN or inf"):
        rule.finish(1)
    rule.close_round({})
    assert all(bool(torch.isfinite(tensor).all()) for tensor in part.state_dict().values())
    rule.close()


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (RuntimeError("unable to open file <0>: Too many open files (24)"), "ulimit -n"),
        (FileNotFoundError(2, "No such file or directory"), "nothing else removes files"),
    ],
)
def test_a_copy_that_cannot_be_read_again_ends_the_run_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, remedy: str
) -> None:
    """Break it: let torch's own error through, which is shown as a defect."""

    def load_file(file: object) -> None:
        raise fault

    rule = rule_of()
    counts = {0: train(rule, 0, 8)}
    monkeypatch.setattr(copies, "load_file", load_file)
    with pytest.raises(RunError, match=remedy):
        rule.close_round(counts)
    rule.close()
