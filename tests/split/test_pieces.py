"""A forward pass in pieces equals one over the whole, with less memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedsplit.boundary import State
from fedsplit.split import pieces

LENGTHS = [4, 3, 6, 8, 1]
Make = Callable[[], nn.Module]


@pytest.fixture(autouse=True)
def _short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MAX_LENGTH", 7)  # pieces of 4 + 3, 6, 8 and 1 examples


class _Counted(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.lengths: list[int] = []

    def forward(self, state: Tensor) -> Tensor:
        self.lengths.append(len(state))
        output: Tensor = self.inner(state)
        return output


def _gradients(
    part: nn.Module, inputs: Tensor, run: Callable[[nn.Module, Tensor], State]
) -> list[Tensor]:
    leaf = inputs.clone().requires_grad_()
    output = run(part, leaf.clone())
    assert isinstance(output, Tensor)
    torch.autograd.backward((output**2).sum())
    gradients = [weight.grad for weight in part.parameters()]
    return [output.detach(), *(g for g in (leaf.grad, *gradients) if g is not None)]


def _both(make: Make, inputs: Tensor) -> tuple[list[Tensor], list[Tensor], list[int]]:
    found = []
    for lengths in ([len(inputs)], LENGTHS):
        torch.manual_seed(3)
        part = _Counted(make().train())

        def run(part: nn.Module, state: Tensor, lengths: list[int] = lengths) -> State:
            return pieces.forward(part, state, lengths)

        found.append(_gradients(part, inputs, run))
    return found[0], found[1], part.lengths


def _plain() -> nn.Module:
    # Works in place on its input, as a part may.
    return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 3))


def test_output_and_gradients_are_those_of_one_piece() -> None:
    """Break it: leave out the clone, the last piece, or a batch in the middle."""
    whole, cut, lengths = _both(_plain, torch.randn(22, 5))

    assert lengths[:4] == [7, 6, 8, 1]
    assert sorted(lengths[4:]) == [1, 6, 7, 8]  # each once more in the backward pass
    assert len(whole) == len(cut) == 6
    for one, other in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_batches_stay_whole_where_an_example_has_several_rows() -> None:
    state = {"tokens": torch.randn(44, 5), "grid": torch.arange(22)}
    seen: list[int] = []

    class Tree(nn.Module):
        def forward(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
            assert len(state["tokens"]) == 2 * len(state["grid"])
            seen.append(len(state["grid"]))
            return {"tokens": state["tokens"] * 2, "grid": state["grid"]}

    output = pieces.forward(Tree(), state, [2 * length for length in LENGTHS])

    assert isinstance(output, dict)
    assert seen == [4, 3, 6, 8, 1]
    assert torch.equal(output["tokens"], state["tokens"] * 2)
    assert torch.equal(output["grid"], state["grid"])


def test_dropout_leaves_out_the_same_in_the_backward_pass() -> None:
    """Break it: compute again without the random state of the first pass."""
    inputs = torch.ones(22, 5)
    torch.manual_seed(5)
    output, gradient = _gradients(
        nn.Dropout(0.5), inputs, lambda part, state: pieces.forward(part, state, LENGTHS)
    )

    assert 20 < int((output == 0).sum()) < 90
    torch.testing.assert_close(gradient, 4 * output)  # of (2 x)^2 at x = 1, or of 0


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(5), nn.BatchNorm1d(5, track_running_stats=False)])
def test_a_part_that_normalises_by_the_batch_stays_in_one_piece(norm: nn.Module) -> None:
    part = _Counted(norm)
    pieces.forward(part, torch.randn(22, 5), LENGTHS)
    assert part.lengths == [22]


def test_a_part_with_running_statistics_stays_in_one_piece() -> None:
    part = _Counted(nn.Identity())
    part.register_buffer("mean", torch.zeros(5))
    pieces.forward(part, torch.randn(22, 5), LENGTHS)
    assert part.lengths == [22]


def test_a_small_state_is_computed_once() -> None:
    part = _Counted(_plain())
    _gradients(part, torch.randn(7, 5), lambda p, state: pieces.forward(p, state, [4, 3]))
    assert part.lengths == [7]
