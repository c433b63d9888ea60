"""A frame: what crosses the channel, once in each direction for a step."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedsplit.channel import wire_pb2

CUT_PREFIX = "cut."
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
        Smashed data and its gradients are named ``cut.<name>``; beside them stand ``labels``
        (int64 [B]), or ``loss`` (float32 []) and ``num-correct`` (int64 []).
    """

    kind: Kind
    step: int
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def pack_cut(state: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors at the cut for a frame; a single tensor is called ``cut.hidden``."""
    named = {"hidden": state} if isinstance(state, Tensor) else state
    return {CUT_PREFIX + name: tensor for name, tensor in named.items()}


def unpack_cut(tensors: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
    """Reverse `pack_cut`, leaving out what does not belong to the cut."""
    named = {
        name.removeprefix(CUT_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(CUT_PREFIX)
    }
    return named["hidden"] if list(named) == ["hidden"] else named
