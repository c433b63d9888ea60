"""The costs of training at each side: FLOPs per example, and parameters.

FLOPs are 2 x multiply-adds of the forward and the backward pass that the algorithm needs. What a
fused kernel computes twice to save memory counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedsplit.boundary import State, each
from fedsplit.models.stages import storage_free_copy


def count_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """Return the number of elements of all parameters, or of the trainable ones.

    Shared parameters count once.
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def part_flops_per_sample(part: nn.Module, example: State) -> int:
    """Return the FLOPs of one training step of a part with one example.

    Nothing is computed and no weights are copied: a copy of the part runs on the meta device.

    Parameters
    ----------
    part : nn.Module
        Any part of a model, or a whole model. Frozen parameters cost no gradient.
    example : State
        The input of the part, with a batch of one: [1, ...]. The backward pass includes the
        gradients of those of its tensors that require one.
    """
    flops, _ = _training_step(storage_free_copy(part), leaves_on_meta(example))
    return flops


def part_flops(
    parts: Sequence[nn.Module], input_shape: Sequence[int], ends: Sequence[bool] = ()
) -> list[int]:
    """Return the FLOPs of one training step with one example, for each part of a chain.

    The backward pass of a part continues into the part before it if that one needs a gradient.
    The backward pass of the first part ends at its own parameters.

    Parameters
    ----------
    parts : Sequence[nn.Module]
        The parts, in the order in which they run.
    input_shape : Sequence[int]
        The shape of one image, without a batch axis: [channels, height, width].
    ends : Sequence[bool]
        For each part, whether the backward pass ends there although the part before it trains, as
        when no cut gradient returns. Default: nowhere.
    """
    state: State = images_on_meta(parts[0], input_shape)
    counts = []
    for index, part in enumerate(parts):
        leaves = leaves_on_meta(state)
        if index < len(ends) and ends[index]:
            leaves = each(leaves, Tensor.detach)
        flops, state = _training_step(storage_free_copy(part), leaves)
        counts.append(flops)
    return counts


def _training_step(part: nn.Module, example: State) -> tuple[int, State]:
    # In eval mode, no branch of the forward pass depends on random numbers.
    part.eval()
    # Without fused attention: on the meta device, attention is then its two matrix products.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        output = part(each(example, torch.clone))  # a part may begin with an in-place operation
        ends = [t for t in tensors_of(output) if t.requires_grad]
        if ends:
            torch.autograd.backward(ends, [torch.empty_like(t) for t in ends])
    return counter.get_total_flops(), output


def images_on_meta(part: nn.Module, shape: Sequence[int], batch_size: int = 1) -> Tensor:
    """Return images without storage, [B, *shape], in the dtype of the part that takes them."""
    floating = (p.dtype for p in part.parameters() if p.is_floating_point())
    dtype = next(floating, torch.get_default_dtype())
    return torch.empty((batch_size, *shape), dtype=dtype, device="meta")


def leaves_on_meta(state: State) -> State:
    """Return a state without storage and graph. Its tensors require gradients as before."""
    if isinstance(state, Tensor):
        return _leaf_on_meta(state)
    return {
        # Integers hold the sizes of images, which stages read on the CPU.
        name: _leaf_on_meta(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _leaf_on_meta(tensor: Tensor) -> Tensor:
    leaf = torch.empty_like(tensor, device="meta", requires_grad=False)
    return leaf.requires_grad_(tensor.requires_grad)


def tensors_of(output: object) -> list[Tensor]:
    """Return all tensors in the output of a part, or of a whole model of any library."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):  # the outputs of transformers are mappings too
        return [tensor for value in output.values() for tensor in tensors_of(value)]
    if isinstance(output, list | tuple):
        return [tensor for value in output for tensor in tensors_of(value)]
    return []
