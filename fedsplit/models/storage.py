"""Replace the tensors of a module tree, and keep its modules.

Buffers that are not part of a state dict, such as a table of positions, are no weights: nobody
sends or stores them, so they are kept wherever the weights are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor, nn

from fedsplit.errors import ModelError

MAX_KEPT_BYTES = 2**30
"""Of all buffers that are no weights: tables of positions have some megabytes."""

Slot = tuple[nn.Module, str, Tensor]
"""A module, the name of a tensor in it, and the tensor."""


def weight_slots(model: nn.Module) -> Iterator[tuple[str, Slot]]:
    """Yield every name of a state dict with its slot; a tied tensor comes under each name."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield start + name, (module, name, parameter)
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield start + name, (module, name, buffer)


def kept_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that are not part of the state dict, by name."""
    stored = {name for name, _ in weight_slots(model)}
    return {name: tensor for name, tensor in model.named_buffers() if name not in stored}


def allocate_kept_buffers(model: nn.Module) -> None:
    """Give the buffers that are not part of the state dict uninitialised CPU storage, in place.

    Raises
    ------
    ModelError
        If they would have more than `MAX_KEPT_BYTES`.
    """
    buffers = kept_buffers(model)
    size = sum(buffer.nbytes for buffer in buffers.values())
    if size > MAX_KEPT_BYTES:
        raise ModelError(
            f"The tables of positions of this model would take {size:,} bytes, more than "
            f"{MAX_KEPT_BYTES:,}. Correct image_size and window_size in its config.json."
        )
    for name, buffer in buffers.items():
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner)._buffers[last] = torch.empty_like(buffer, device="cpu")


def check_memory(
    name: str, model: nn.Module, dtype: torch.dtype | None, wanted: Collection[str] | None = None
) -> None:
    """Refuse a model whose weights are more than this machine has memory for.

    Parameters
    ----------
    name : str
        What the user calls the model, for the message.
    model : nn.Module
        Without storage.
    dtype : torch.dtype | None
        Of its weights; None = those that they have.
    wanted : Collection[str], optional
        Names of the weights to have; default all.

    Raises
    ------
    ModelError
        Names both sizes.
    """
    sizes = {
        id(tensor): tensor.numel()
        * ((dtype or tensor.dtype) if tensor.is_floating_point() else tensor.dtype).itemsize
        for key, (_, _, tensor) in weight_slots(model)
        if wanted is None or key in wanted
    }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (needed := sum(sizes.values())) > memory:
        raise ModelError(
            f"The weights of the model '{name}' would take {needed:,} bytes, and this machine has "
            f"{memory:,} bytes of memory. Correct the sizes in its config.json, or use a smaller "
            "model."
        )


def move_kept_buffers(
    model: nn.Module, device: str | torch.device | None, dtype: torch.dtype | None = None
) -> None:
    """Put the buffers that are not part of the state dict on a device, the meta device too.

    Floating-point ones take the dtype, as in `nn.Module.to`: weights compute with them.
    """
    for name, buffer in kept_buffers(model).items():
        owner, _, last = name.rpartition(".")
        floating = buffer.is_floating_point()
        moved = buffer.to(device=device, dtype=dtype if floating else None)
        model.get_submodule(owner)._buffers[last] = moved


def replace_weights(model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Replace each weight by another tensor; tied weights stay tied."""
    changed: dict[int, Tensor] = {}
    for _, slot in list(weight_slots(model)):
        tensor = slot[2]
        if id(tensor) not in changed:
            changed[id(tensor)] = as_slot(tensor, change(tensor))
        put(slot, changed[id(tensor)])


def put(slot: Slot, tensor: Tensor) -> None:
    """Put a tensor into a slot; a parameter stays a parameter."""
    module, name, old = slot
    tensor = as_slot(old, tensor)
    if isinstance(tensor, nn.Parameter):
        module._parameters[name] = tensor
    else:
        module._buffers[name] = tensor


def without_storage(model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Move all weights to the meta device, in place; floating-point ones take the dtype."""
    replace_weights(model, lambda tensor: _empty(tensor, "meta", dtype))
    move_kept_buffers(model, None, dtype)


def with_storage(model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Give all weights uninitialised CPU storage, in place; floating-point ones take the dtype."""
    replace_weights(model, lambda tensor: _empty(tensor, "cpu", dtype))
    move_kept_buffers(model, None, dtype)


def _empty(tensor: Tensor, device: str, dtype: torch.dtype | None) -> Tensor:
    floating = tensor.is_floating_point()
    return torch.empty_like(tensor, device=device, dtype=dtype if floating else None)


def as_slot(old: Tensor, new: Tensor) -> Tensor:
    """Return the new tensor as a parameter if the old one is a parameter."""
    if isinstance(old, nn.Parameter) and not isinstance(new, nn.Parameter):
        return nn.Parameter(new, requires_grad=old.requires_grad)
    return new
