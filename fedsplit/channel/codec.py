"""Frames to bytes and back: safetensors inside a protobuf message, and nothing executable.

The first field of a message is a checksum of the rest, which is compared before anything is read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor
from xxhash import xxh3_64

from fedsplit import tensor_headers
from fedsplit.channel import wire_pb2
from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError, DamagedError, shorten
from fedsplit.snapshot import separate

_SEAL_TAG = bytes([wire_pb2.Frame.CHECKSUM_FIELD_NUMBER << 3 | 1])  # 64 bits, fixed
_SEAL_LENGTH = len(_SEAL_TAG) + 8
_Signature = tuple[tuple[str, torch.Size, torch.dtype], ...]
_TENSORS_TAG = wire_pb2.Frame.TENSORS_FIELD_NUMBER << 3 | 2
_START = struct.Struct("<BIBB")  # the tag and value of the step, and of the kind
_START_TAGS = (wire_pb2.Frame.STEP_FIELD_NUMBER << 3 | 5, wire_pb2.Frame.KIND_FIELD_NUMBER << 3)
LIMITS = tensor_headers.Limits(tensors=256, header_bytes=2**16)
"""Of a frame. Those of models have few tensors, and a codec may make several of each."""


def encode(frame: Frame) -> bytes:
    """Return the exact bytes that cross the wire for this frame."""
    tensors = separate(frame.tensors)
    head = wire_pb2.Frame(step=frame.step, kind=frame.kind.value).SerializeToString()
    pieces: list[bytes | memoryview] = [head]
    if tensors:
        prefix, names, suffix = _layout(_signature(tensors))
        pieces += [prefix, *(_memory(tensors[name]) for name in names), suffix]
    # The libraries would copy the tensors four times to make the same bytes, each time into new
    # memory, which costs more than the copying itself.
    return sealed(*pieces)


def decode(data: bytes) -> Frame:
    """Read a frame; names, shapes and values are for the receiver to check.

    Raises
    ------
    DamagedError
        If the checksum is not that of the rest.
    ChannelError
        If the bytes are not a frame, its tensors are not a safetensors file, or its order does not
        name these tensors, or there are more than `LIMITS` allows.
    """
    if data[:_SEAL_LENGTH] != _seal_of(memoryview(data)[_SEAL_LENGTH:]):
        raise DamagedError(f"A message of {len(data)} bytes was changed on its way.")
    try:
        fields = _fields_of(memoryview(data)[_SEAL_LENGTH:])
        kind = Kind(fields.kind)
        loaded = _loaded(fields.tensors) if fields.tensors else {}
        # A copy into torch's own memory: arithmetic can depend on alignment, and both engines
        # have to give the same bits.
        tensors = {name: loaded.pop(name).clone() for name in fields.order or sorted(loaded)}
        if loaded:
            raise KeyError(f"no place in the order for {', '.join(sorted(loaded))}")
        if fields.order == sorted(fields.order) != []:
            raise ValueError("its order is the alphabetical one, which is never sent")
    except Exception as error:  # what a hostile message makes the libraries raise is open-ended
        raise ChannelError(
            f"A message of {len(data)} bytes is not a frame of this channel ({shorten(error)}). "
            "Both ends must run the same version of fedsplit."
        ) from None
    return Frame(kind, fields.step, tensors)


class _Fields(NamedTuple):
    """The fields of a message after its checksum."""

    step: int
    kind: int
    tensors: bytes
    order: list[str]


def _fields_of(message: memoryview) -> _Fields:
    """Return the fields of a message, which has them in one order and each once, as we write it.

    protobuf's parser takes the last of two equal fields, keeps fields that it does not know, and
    makes an object of every name in an order, however many there are.
    """
    step_tag, step, kind_tag, kind = _START.unpack_from(message)
    if (step_tag, kind_tag) != _START_TAGS:
        raise ValueError("it does not begin with a step and a kind")
    rest = message[_START.size :]
    if not rest:
        return _Fields(step, kind, b"", [])
    digits = next((n for n, byte in enumerate(rest[1:6], 1) if byte < 128), 0)
    length = sum((byte & 127) << 7 * n for n, byte in enumerate(rest[1 : digits + 1]))
    file, tail = rest[digits + 1 :][:length], rest[digits + 1 :][length:]
    if rest[0] != _TENSORS_TAG or not digits or not length or len(file) != length:
        raise ValueError("its tensors are incomplete")
    if digits > 1 and not rest[digits]:
        raise ValueError("the length of its tensors has a zero in front")
    if len(tail) > LIMITS.header_bytes:
        raise ValueError(f"it has {len(tail)} bytes after its tensors")
    order = list(wire_pb2.Frame.FromString(bytes(tail)).order)
    if wire_pb2.Frame(order=order).SerializeToString() != tail:
        raise ValueError("it has more than an order after its tensors")
    return _Fields(step, kind, bytes(file), order)


def _loaded(file: bytes) -> dict[str, Tensor]:
    if tensor_headers.METADATA in tensor_headers.checked(file, LIMITS):
        raise ValueError("its tensors have metadata")
    return safetensors.torch.load(file)


def sealed(*pieces: bytes | memoryview) -> bytes:
    """Return a message: the fields after the checksum, with the checksum before them."""
    return b"".join([_seal_of(*pieces), *pieces])


def _seal_of(*pieces: bytes | memoryview) -> bytes:
    """Return the field with the checksum of the bytes after it."""
    digest = xxh3_64()
    for piece in pieces:
        digest.update(piece)
    return _SEAL_TAG + digest.intdigest().to_bytes(8, "little")


def encoded_length(frame: Frame) -> int:
    """Return ``len(encode(frame))`` in bytes without encoding, for the engine without a wire."""
    return _length_of(frame.kind, _signature(frame.tensors))


@lru_cache(maxsize=256)
def _length_of(kind: Kind, signature: _Signature) -> int:
    return len(encode(Frame(kind, 0, _zeros(signature))))


@lru_cache(maxsize=256)
def _layout(signature: _Signature) -> tuple[bytes, tuple[str, ...], bytes]:
    """Return the bytes between a frame's kind and its tensors, their order, and the bytes after."""
    file = safetensors.torch.save(_zeros(signature))
    start = 8 + int.from_bytes(file[:8], "little")
    entries = json.loads(file[8:start])
    stored = sorted(entries, key=lambda name: entries[name]["data_offsets"])
    message = wire_pb2.Frame(tensors=file).SerializeToString()
    names = [name for name, _, _ in signature]
    order = wire_pb2.Frame(order=names if names != sorted(names) else ()).SerializeToString()
    return message[: len(message) - len(file) + start], tuple(stored), order


def _signature(tensors: Mapping[str, Tensor]) -> _Signature:
    return tuple((name, t.shape, t.dtype) for name, t in tensors.items())


def _zeros(signature: _Signature) -> dict[str, Tensor]:
    return {name: torch.zeros(shape, dtype=dtype) for name, shape, dtype in signature}


def _memory(tensor: Tensor) -> memoryview:
    """Return a contiguous tensor's bytes, little-endian as in every safetensors file."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
