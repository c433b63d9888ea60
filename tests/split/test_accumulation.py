from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedsplit.split.accumulation import Accumulation
from fedsplit.split.training import Training
from tests.split.toys import config_of

X = torch.randn(9, 5, generator=torch.Generator().manual_seed(2))
Y = torch.arange(9) % 3
PIECES = [slice(0, 4), slice(4, 5), slice(5, 9)]


def _model() -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    model[0].bias.requires_grad_(False)
    return model


def _steps(model: nn.Module, batches: int, **keys: object) -> Accumulation:
    training = Training.of_clients(config_of(accumulate_batches=batches, **keys))
    return Accumulation(training.make_optimizer(model.named_parameters()), training)


def _add(steps: Accumulation, model: nn.Module, piece: slice) -> None:
    steps.begin()
    torch.autograd.backward(cross_entropy(model(X[piece]), Y[piece]))
    steps.end(piece.stop - piece.start)


def _distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_several_batches_make_the_step_of_one_batch_of_their_examples(optimizer: str) -> None:
    """Break it: take the mean over batches, which here have 4, 1 and 4 examples."""
    ours, theirs = _model(), _model()
    steps, whole = _steps(ours, 3, optimizer=optimizer), _steps(theirs, 1, optimizer=optimizer)
    start = copy.deepcopy(ours)
    for _ in range(2):
        for piece in PIECES[:-1]:
            before = copy.deepcopy(ours)
            _add(steps, ours, piece)
            assert _distance(before, ours) == 0.0
        _add(steps, ours, PIECES[-1])
        _add(whole, theirs, slice(0, 9))
    assert _distance(start, ours) > 1e-3
    assert _distance(ours, theirs) < 1e-6


def test_the_batches_that_are_left_make_a_step_at_the_end() -> None:
    ours, theirs = _model(), _model()
    steps, whole = _steps(ours, 2), _steps(theirs, 1)
    for piece in PIECES:
        _add(steps, ours, piece)
    steps.finish()
    _add(whole, theirs, slice(0, 5))
    _add(whole, theirs, slice(5, 9))
    assert _distance(ours, theirs) < 1e-6
    before = copy.deepcopy(ours)
    steps.finish()  # there is nothing left
    assert _distance(before, ours) == 0.0


def test_a_batch_that_is_undone_leaves_the_others_of_its_step() -> None:
    """Break it: leave the gradient where it is."""
    ours, theirs = _model(), _model()
    steps, whole = _steps(ours, 2), _steps(theirs, 1)
    _add(steps, ours, PIECES[0])
    steps.begin()
    torch.autograd.backward(1e30 * ours(X).sum())
    steps.undo()
    _add(steps, ours, PIECES[1])
    _add(whole, theirs, slice(0, 5))
    assert _distance(ours, theirs) < 1e-6


def test_one_batch_is_an_ordinary_step() -> None:
    ours, theirs = _model(), _model()
    steps = _steps(ours, 1, clip_norm=0.01)
    _add(steps, ours, PIECES[0])
    training = Training.of_clients(config_of(clip_norm=0.01))
    optimizer = training.make_optimizer(theirs.named_parameters())
    torch.autograd.backward(cross_entropy(theirs(X[PIECES[0]]), Y[PIECES[0]]))
    training.update(optimizer)
    assert _distance(ours, theirs) == 0.0
