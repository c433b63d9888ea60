"""A forward pass over many batches that does not keep all activations for its backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from fedsplit.states import State, concatenate, each, examples

MAX_LENGTH = 512
"""Of a piece, as `fedsplit.states.length` counts: examples, or rows if an example has several."""


def forward(part: nn.Module, state: State, lengths: Sequence[int]) -> State:
    """Return ``part(state)``, with the activations of about 512 examples in memory at most.

    Longer states are computed in pieces of whole batches, and each piece once more in the backward
    pass. The result is the same up to rounding. A part that normalises by the batch must see
    all of it, and stays in one piece.

    Parameters
    ----------
    part : nn.Module
        What computes; it may work in place on what it is given.
    state : State
        Batches, one after another.
    lengths : Sequence[int]
        Of each batch (see `fedsplit.states.length`).
    """
    ends = _ends(lengths)
    if len(ends) <= 2 or _keeps_statistics(part):
        whole: State = part(state)
        return whole

    def run(piece: State) -> State:
        # The second time it must find its input as it was.
        output: State = part(each(piece, Tensor.clone))
        return output

    pieces = [examples(state, start, end, ends[-1]) for start, end in pairwise(ends)]
    # Also restores the random state, so that dropout leaves out the same the second time.
    return concatenate([checkpoint(run, piece, use_reentrant=False) for piece in pieces])


def batches_at_once(part: nn.Module, count: int, length: int) -> int:
    """Return of how many of so many batches of one length `forward` keeps the activations."""
    ends = _ends([length] * count)
    return count if _keeps_statistics(part) else ends[1] // length


def _ends(lengths: Sequence[int]) -> list[int]:
    """Return 0 and where each piece ends."""
    ends, end = [0], 0
    for length in lengths:
        if end > ends[-1] and end + length - ends[-1] > MAX_LENGTH:
            ends.append(end)
        end += length
    return [*ends, end]


def _keeps_statistics(part: nn.Module) -> bool:
    """Whether a part normalises by the batch, or updates running statistics in a forward pass."""
    if any(isinstance(module, _BatchNorm) for module in part.modules()):
        return True
    trained = {name for name, _ in part.named_parameters(remove_duplicate=False)}
    kept = {name: tensor for name, tensor in part.state_dict().items() if name not in trained}
    return any(tensor.is_floating_point() for tensor in kept.values())
