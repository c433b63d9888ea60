"""What passes a boundary of the model: one tensor, or several by name.

The first axis of every tensor is the batch, or a fixed number of rows for each of its B examples,
example after example: 17 tokens of an image may be [B, 17, D], or packed [17 B, D].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

State = Tensor | dict[str, Tensor]
"""Smashed data, the trunk's output, or a gradient of one of them."""


class TensorSpec(NamedTuple):
    """What one tensor of a state is for a batch of one example.

    Attributes
    ----------
    shape : tuple[int, ...]
        Its shape; for B examples the first axis is B times as long.
    dtype : torch.dtype
        Its dtype.
    value : tuple[int, ...] | None
        The numbers in it, if they are whole and the same for every example, such as the size of
        the image; None if they are for the model to say.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    value: tuple[int, ...] | None = None

    def shape_for(self, batch_size: int) -> torch.Size:
        """Return the shape for so many examples."""
        return torch.Size((self.shape[0] * batch_size, *self.shape[1:]))


def each(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """Return the state with every tensor changed."""
    if isinstance(state, Tensor):
        return change(state)
    return {name: change(tensor) for name, tensor in state.items()}


def has_numbers(state: State) -> bool:
    """Return whether any floating tensor is more than a shape on the meta device."""
    tensors = [state] if isinstance(state, Tensor) else state.values()
    return any(tensor.is_floating_point() and not tensor.is_meta for tensor in tensors)


def length(state: State) -> int:
    """Return the length of the first tensor, which grows as B does."""
    return len(state) if isinstance(state, Tensor) else len(next(iter(state.values())))


def concatenate(states: Sequence[State]) -> State:
    """Return one state with the examples of all, in order."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat([state for state in states if isinstance(state, Tensor)])
    trees = [state for state in states if not isinstance(state, Tensor)]
    return {name: torch.cat([tree[name] for tree in trees]) for name in first}


def examples(state: State, start: int, end: int, total: int) -> State:
    """Return the part from start / total to end / total of all examples, as views."""
    return each(state, lambda t: t[len(t) * start // total : len(t) * end // total])


def zeros(state: State, count: int, total: int) -> State:
    """Return count / total times as many examples, all zero, shaped like the state's."""
    return each(state, lambda t: t.new_zeros((len(t) * count // total, *t.shape[1:])))
