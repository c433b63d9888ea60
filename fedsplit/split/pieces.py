"""A forward pass over many batches that keeps few of their activations in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from fedsplit.boundary import State, concatenate, each, examples

MAX_LENGTH = 512
"""Maximum length of a piece (see `fedsplit.boundary.length`)."""


def forward(part: nn.Module, state: State, lengths: Sequence[int]) -> State:
    """Return ``part(state)``, keeping the activations of at most about 512 examples.

    Longer states are computed in pieces of whole batches, and each piece again in the backward
    pass. The result is the same up to rounding. A part that normalises over the batch must see
    all of it, so it stays in one piece.

    Parameters
    ----------
    part : nn.Module
        The computation; it may work in place on its input.
    state : State
        Batches, one after another.
    lengths : Sequence[int]
        Of each batch (see `fedsplit.boundary.length`).
    """
    ends = _ends(lengths)
    if len(ends) <= 2 or _keeps_statistics(part):
        whole: State = part(state)
        return whole

    def run(piece: State) -> State:
        # The second pass must find the input unchanged.
        output: State = part(each(piece, Tensor.clone))
        return output

    pieces = [examples(state, start, end, ends[-1]) for start, end in pairwise(ends)]
    # Checkpointing also restores the random state, so that both passes drop the same activations.
    return concatenate([checkpoint(run, piece, use_reentrant=False) for piece in pieces])


def batches_at_once(part: nn.Module, count: int, length: int) -> int:
    """Return how many of `count` equally long batches `forward` keeps activations for at a time."""
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
    """Return whether a part normalises over the batch, or updates running statistics."""
    if any(isinstance(module, _BatchNorm) for module in part.modules()):
        return True
    trained = {name for name, _ in part.named_parameters(remove_duplicate=False)}
    kept = {name: tensor for name, tensor in part.state_dict().items() if name not in trained}
    return any(tensor.is_floating_point() for tensor in kept.values())
