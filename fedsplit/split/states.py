"""What crosses a boundary of the model, example by example: one tensor, or several by name.

Every tensor's first axis is the batch; B is its length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedsplit.channel.frame import State


def each(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """Return the state with every tensor changed."""
    if isinstance(state, Tensor):
        return change(state)
    return {name: change(tensor) for name, tensor in state.items()}


def batch_size(state: State) -> int:
    """Return B."""
    return len(state) if isinstance(state, Tensor) else len(next(iter(state.values())))


def concatenate(states: Sequence[State]) -> State:
    """Return one state with the examples of all, in order."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat([state for state in states if isinstance(state, Tensor)])
    trees = [state for state in states if not isinstance(state, Tensor)]
    return {name: torch.cat([tree[name] for tree in trees]) for name in first}


def rows(state: State, start: int, end: int) -> State:
    """Return the examples [start, end) as views."""
    return each(state, lambda tensor: tensor[start:end])


def zero_rows(state: State, count: int) -> State:
    """Return as many examples of zeros, shaped like the state's."""
    return each(state, lambda tensor: tensor.new_zeros((count, *tensor.shape[1:])))
