"""What crosses a boundary of the model: one tensor, or several by name.

The first axis of every tensor is the batch, or a fixed number of rows for each of its B examples,
example after example: 17 tokens of an image may be [B, 17, D], or packed [17 B, D].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

State = Tensor | dict[str, Tensor]
"""Smashed data, the trunk's output, or the gradient of either, as modules take and return it."""

BARE_NAME = "hidden"
"""The name of a tensor that modules pass on without a dict."""


class TensorSpec(NamedTuple):
    """One tensor of a state, for a batch of one example.

    Attributes
    ----------
    shape : tuple[int, ...]
        Its shape. For B examples the first axis is B times as long.
    dtype : torch.dtype
        Its dtype.
    value : tuple[int, ...] | None
        Its integers, if they are the same for every example, such as the size of the image;
        None if they depend on the example.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    value: tuple[int, ...] | None = None

    def shape_for(self, batch_size: int) -> torch.Size:
        """Return the shape for a batch of this size."""
        return torch.Size((self.shape[0] * batch_size, *self.shape[1:]))


@dataclass(frozen=True)
class Boundary:
    """What crosses one boundary of the model.

    Attributes
    ----------
    tensors : Mapping[str, TensorSpec]
        Each tensor by name, in the order in which the module before the boundary returns them.
    bare : bool
        Whether modules pass a single tensor, not a dict. Its name here is ``hidden``.
    """

    tensors: Mapping[str, TensorSpec]
    bare: bool = False

    @property
    def floating(self) -> Boundary:
        """The boundary without its integer tensors: what a gradient consists of."""
        kept = {name: spec for name, spec in self.tensors.items() if spec.dtype.is_floating_point}
        return Boundary(kept, self.bare)

    def to_state(self, named: Mapping[str, Tensor]) -> State:
        """Return tensors by name as modules take them, in the boundary's order."""
        if self.bare and named:
            return named[BARE_NAME]
        return {name: named[name] for name in self.tensors if name in named}


def by_name(state: State) -> dict[str, Tensor]:
    """Return a state as a dict; a bare tensor gets the name ``hidden``."""
    return {BARE_NAME: state} if isinstance(state, Tensor) else state


def each(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """Return a state of the same form with `change` applied to every tensor."""
    if isinstance(state, Tensor):
        return change(state)
    return {name: change(tensor) for name, tensor in state.items()}


def has_numbers(state: State) -> bool:
    """Return whether any floating-point tensor has storage, so is not on the meta device."""
    return any(t.is_floating_point() and not t.is_meta for t in by_name(state).values())


def length(state: State) -> int:
    """Return the length of the first tensor, which is proportional to B."""
    return len(next(iter(by_name(state).values())))


def concatenate(states: Sequence[State]) -> State:
    """Return one state with the examples of all states, in order."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat([state for state in states if isinstance(state, Tensor)])
    trees = [state for state in states if not isinstance(state, Tensor)]
    return {name: torch.cat([tree[name] for tree in trees]) for name in first}


def examples(state: State, start: int, end: int, total: int) -> State:
    """Return the examples from ``start / total`` to ``end / total`` of a state, as views."""
    return each(state, lambda t: t[len(t) * start // total : len(t) * end // total])


def zeros(state: State, count: int, total: int) -> State:
    """Return ``count / total`` times as many examples of the same shape, all zero."""
    return each(state, lambda t: t.new_zeros((len(t) * count // total, *t.shape[1:])))
