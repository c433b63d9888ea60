"""Toy codecs: 8-bit integers with a scale per token, and one flat buffer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedsplit.boundary import TensorSpec
from fedsplit.split.codecs import Codec, Draw, Packed

SCALE = ".scale"


class Int8(Codec):
    """Round each token to 8-bit integers, at random, so that the mean is right."""

    def packed(self, tensors: Mapping[str, TensorSpec], batch_size: int) -> dict[str, Packed]:
        packed = {}
        for name, spec in tensors.items():
            shape = spec.shape_for(batch_size)
            packed[name] = Packed(shape, torch.int8)
            packed[name + SCALE] = Packed(shape[:-1], torch.float32)
        return packed

    def encode(self, tensors: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        random, packed = draw(), {}
        for name, tensor in tensors.items():
            scale = tensor.float().abs().amax(dim=-1).clamp_min(1e-12) / 127
            noise = torch.rand(tensor.shape, generator=random)
            scaled = (tensor.float() / scale[..., None] + noise).floor()
            packed[name] = scaled.clamp(-127, 127).to(torch.int8)
            packed[name + SCALE] = scale
        return packed

    def decode(
        self, packed: Mapping[str, Tensor], tensors: Mapping[str, TensorSpec], batch_size: int
    ) -> dict[str, Tensor]:
        decoded = {}
        for name, spec in tensors.items():
            scale = packed[name + SCALE]
            if (scale <= 0).any():
                raise ValueError(f"a scale of '{name}' is {float(scale.min())}")
            decoded[name] = (packed[name] * scale[..., None]).to(spec.dtype)
        return decoded


class Flat(Codec):
    """Send all tensors as one buffer of float32 that begins with two numbers of its own."""

    HEADER = (7.0, 9.0)

    def packed(self, tensors: Mapping[str, TensorSpec], batch_size: int) -> dict[str, Packed]:
        numbers = sum(spec.shape_for(batch_size).numel() for spec in tensors.values())
        return {
            "note": Packed(torch.Size([3]), torch.uint8),
            "all": Packed(torch.Size([2 + numbers]), torch.float32),
        }

    def encode(self, tensors: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        parts = [torch.tensor(self.HEADER), *(t.float().flatten() for t in tensors.values())]
        return {"note": torch.tensor([1, 2, 3], dtype=torch.uint8), "all": torch.cat(parts)}

    def decode(
        self, packed: Mapping[str, Tensor], tensors: Mapping[str, TensorSpec], batch_size: int
    ) -> dict[str, Tensor]:
        shapes = {name: spec.shape_for(batch_size) for name, spec in tensors.items()}
        parts = torch.split(packed["all"][2:], [shape.numel() for shape in shapes.values()])
        return {
            name: part.reshape(shapes[name]).to(tensors[name].dtype)
            for name, part in zip(tensors, parts, strict=True)
        }


def make_int8() -> Int8:
    return Int8()


def make_nothing() -> None:
    return None


def fail_to_make() -> Int8:
    raise OSError("no table of this size")
