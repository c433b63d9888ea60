"""What crosses the boundaries of a model, found without computing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedsplit.boundary import Boundary, State, TensorSpec, by_name
from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models.stages import storage_free_copy


def smashed_spec(bottom: nn.Module, spec: InputSpec) -> dict[str, TensorSpec]:
    """Return the spec of every tensor that crosses the cut, for a batch of one image.

    A state of one tensor has the name ``hidden``; for a plain ViT it is [1, N+1, D].
    """
    return dict(boundary(bottom, spec).tensors)


def boundary(bottom: nn.Module, spec: InputSpec) -> Boundary:
    """Return what crosses the boundary after a part that takes images.

    Raises
    ------
    ModelError
        As `boundaries` does.
    """
    return boundaries([bottom], spec)[0]


def boundaries(parts: Sequence[nn.Module], spec: InputSpec) -> list[Boundary]:
    """Return what crosses the boundary after each part of a chain that takes images.

    Nothing is computed: storage-free copies of the parts run on the meta device.

    Raises
    ------
    ModelError
        If the first part does not take images of this size, or a tensor does not grow with the
        batch.
    """
    empty = [storage_free_copy(part) for part in parts]
    runs = (_outputs(empty, spec, batch_size) for batch_size in (1, 2))
    return [_boundary(one, two) for one, two in zip(*runs, strict=True)]


def _boundary(state: State, for_two: State) -> Boundary:
    one, two = by_name(state), by_name(for_two)
    for name, tensor in one.items():
        twice = two[name].shape
        if not tensor.ndim or twice != (2 * tensor.shape[0], *tensor.shape[1:]):
            raise ModelError(
                f"The bottom's output '{name}' has shape {tuple(tensor.shape)} for one image and "
                f"{tuple(twice)} for two; its first axis must be the batch, or a fixed number of "
                "rows for each image."
            )
    tensors = {
        name: TensorSpec(tuple(tensor.shape), tensor.dtype, _constant(tensor, two[name]))
        for name, tensor in one.items()
    }
    return Boundary(tensors, bare=isinstance(state, Tensor))


def _outputs(parts: Sequence[nn.Module], spec: InputSpec, batch_size: int) -> list[State]:
    state: State = torch.empty(batch_size, spec.channels, spec.height, spec.width, device="meta")
    outputs = []
    for part in parts:
        try:
            with torch.no_grad():
                state = part(state)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise ModelError(
                f"The bottom cannot take images of {spec.channels}x{spec.height}x{spec.width} "
                f"(channels x height x width): {error} This size comes from the model's "
                "preprocessor_config.json: correct it there, or set model.image-size."
            ) from None
        tensors = state.values() if isinstance(state, Mapping) else [state]
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise ModelError(
                f"The bottom returns {type(state).__name__}. Let it return a tensor, or a dict of "
                "tensors by name."
            )
        outputs.append(state)
    return outputs


def _constant(one: Tensor, two: Tensor) -> tuple[int, ...] | None:
    # Computed on the CPU from the images' shape alone, so it has values even on the meta device.
    if one.is_meta or one.is_floating_point() or not torch.equal(torch.cat([one, one]), two):
        return None
    return tuple(one.flatten().tolist())
