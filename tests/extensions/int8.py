"""A codec: 8-bit integers with one scale for each token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedsplit.boundary import TensorSpec
from fedsplit.split.codecs import Codec, Draw, Packed

LEVELS = 127


class Int8(Codec):
    """Round x / scale to the nearest integer; scale = max|x| / 127 over the last axis."""

    def packed(self, tensors: Mapping[str, TensorSpec], batch_size: int) -> dict[str, Packed]:
        """Return one byte for each number, and a float32 for each token."""
        packed = {}
        for name, spec in tensors.items():
            shape = spec.shape_for(batch_size)
            packed[name] = Packed(shape, torch.int8)
            packed[f"{name}.scale"] = Packed(torch.Size((*shape[:-1], 1)), torch.float32)
        return packed

    def encode(self, tensors: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """Quantise every tensor."""
        packed = {}
        for name, tensor in tensors.items():
            scale = tensor.float().abs().amax(dim=-1, keepdim=True) / LEVELS
            packed[name] = (tensor / scale.clamp_min(1e-30)).round().to(torch.int8)
            packed[f"{name}.scale"] = scale
        return packed

    def decode(
        self, packed: Mapping[str, Tensor], tensors: Mapping[str, TensorSpec], batch_size: int
    ) -> dict[str, Tensor]:
        """Multiply by the scale again."""
        if any(bool((packed[f"{name}.scale"] < 0).any()) for name in tensors):
            raise ValueError("a scale is negative")
        return {
            name: (packed[name] * packed[f"{name}.scale"]).to(spec.dtype)
            for name, spec in tensors.items()
        }
