"""A frame: one message of the channel."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedsplit.channel import wire_pb2


class Kind(enum.IntEnum):
    """What a frame carries; the numbers are those of ``wire.proto``."""

    SMASHED_DATA = wire_pb2.Frame.SMASHED_DATA
    CUT_GRADIENT = wire_pb2.Frame.CUT_GRADIENT
    EVALUATION = wire_pb2.Frame.EVALUATION
    FINISH = wire_pb2.Frame.FINISH
    FINISHED = wire_pb2.Frame.FINISHED
    TRUNK_OUTPUT = wire_pb2.Frame.TRUNK_OUTPUT
    OUTPUT_GRADIENT = wire_pb2.Frame.OUTPUT_GRADIENT
    ABANDON = wire_pb2.Frame.ABANDON


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
        By name (see `fedsplit.split.wire`).
    """

    kind: Kind
    step: int
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
