"""A frame: what crosses the channel, once in each direction for a step."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedsplit.channel import wire_pb2
from fedsplit.states import State

CUT_PREFIX = "cut."
OUTPUT_PREFIX = "output."
LABELS = "labels"
LOSS = "loss"
NUM_CORRECT = "num-correct"


class Kind(enum.IntEnum):
    """What a frame carries; the numbers are those of ``wire.proto``."""

    SMASHED_DATA = wire_pb2.Frame.SMASHED_DATA
    CUT_GRADIENT = wire_pb2.Frame.CUT_GRADIENT
    EVALUATION = wire_pb2.Frame.EVALUATION
    FINISH = wire_pb2.Frame.FINISH
    FINISHED = wire_pb2.Frame.FINISHED
    TRUNK_OUTPUT = wire_pb2.Frame.TRUNK_OUTPUT
    OUTPUT_GRADIENT = wire_pb2.Frame.OUTPUT_GRADIENT


@dataclass(frozen=True, eq=False)
class Frame:
    """One message of the channel.

    Attributes
    ----------
    kind : Kind
        What the frame carries.
    step : int
        Number of the batch exchange in this session, from 0.
    tensors : Mapping[str, Tensor]
        Smashed data and its gradients are named ``cut.<name>``; beside them stand, if the labels
        are on the server, ``labels`` (int64 [B]), or ``loss`` (float32 []) and ``num-correct``
        (int64 []). The trunk's output and its gradients are named ``output.<name>``.
    """

    kind: Kind
    step: int
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def pack_cut(state: State) -> dict[str, Tensor]:
    """Name the tensors at the cut for a frame; a single tensor is called ``cut.hidden``."""
    return _pack(state, CUT_PREFIX)


def unpack_cut(tensors: Mapping[str, Tensor]) -> State:
    """Reverse `pack_cut`, leaving out what does not belong to the cut."""
    return _unpack(tensors, CUT_PREFIX)


def pack_output(state: State) -> dict[str, Tensor]:
    """Name the tensors of the trunk's output; a single tensor is called ``output.hidden``."""
    return _pack(state, OUTPUT_PREFIX)


def unpack_output(tensors: Mapping[str, Tensor]) -> State:
    """Reverse `pack_output`, leaving out what does not belong to the output."""
    return _unpack(tensors, OUTPUT_PREFIX)


def _pack(state: State, prefix: str) -> dict[str, Tensor]:
    named = {"hidden": state} if isinstance(state, Tensor) else state
    return {prefix + name: tensor for name, tensor in named.items()}


def _unpack(tensors: Mapping[str, Tensor], prefix: str) -> State:
    named = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    return named["hidden"] if list(named) == ["hidden"] else named
