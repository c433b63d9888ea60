"""What runs of one structure share: computed once in a process, for all of its tests' runs.

FLOPs, memory, and whether a part trains on a single image follow from the structure of the parts,
and take half of a small run. Tests of these themselves call them where they are defined.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from fedsplit.batch_check import Trained

Value = TypeVar("Value")

_found: dict[Hashable, Any] = {}


@functools.cache  # of the functions themselves, not of what replaces them
def replacements() -> dict[str, Callable[..., Any]]:
    """Return what takes the place of each function, by its name where runs look for it."""
    from fedsplit import batch_check
    from fedsplit.results import flops as flops_of
    from fedsplit.results import memory as memory_of

    flops, memory = flops_of.part_flops, memory_of.part_memory
    refusals = batch_check._refusals

    def part_flops(
        parts: Sequence[nn.Module], input_shape: Sequence[int], ends: Sequence[bool] = ()
    ) -> list[int]:
        key = ("flops", _structure(parts), tuple(input_shape), tuple(ends))
        return list(_once(key, lambda: flops(parts, input_shape, ends)))

    def part_memory(
        parts: Sequence[nn.Module],
        input_shape: Sequence[int],
        batch_size: int,
        make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    ) -> Any:  # noqa: ANN401
        optimizer = _states_of(make_optimizer)
        key = ("memory", _structure(parts), tuple(input_shape), batch_size, optimizer)
        return _once(key, lambda: memory(parts, input_shape, batch_size, make_optimizer))

    def refused(trained: Trained) -> Any:  # noqa: ANN401
        added = tuple(trained.added)
        key = ("refusals", _structure([*trained.model, *trained.added.values()]), trained.spec)
        return _once((*key, added), lambda: refusals(trained))

    return {
        "fedsplit.costs.part_flops": part_flops,
        "fedsplit.costs.part_memory": part_memory,
        "fedsplit.batch_check._refusals": refused,
    }


def _once(key: Hashable, compute: Callable[[], Value]) -> Value:
    if key not in _found:
        _found[key] = compute()
    found: Value = _found[key]
    return found


def _structure(modules: Iterable[nn.Module]) -> Hashable:
    """Return the modules and weights, without the weights' values."""
    return tuple(
        (
            repr(module),
            tuple(type(part) for part in module.modules()),
            tuple(
                (name, weight.shape, weight.dtype, weight.requires_grad)
                for name, weight in module.named_parameters(remove_duplicate=False)
            ),
        )
        for module in modules
    )


def _states_of(make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]) -> Hashable:
    """Return an optimizer's kind, and which of its options are set: its state follows from them."""
    import torch

    optimizer = make_optimizer([torch.nn.Parameter(torch.empty(1, device="meta"))])
    return type(optimizer), tuple((key, bool(value)) for key, value in optimizer.defaults.items())
