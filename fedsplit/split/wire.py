"""What crosses the channel in a step: one value, derived by client and server from one config.

Checks, lengths and bounds of every frame follow from it, and nothing else names or unpacks the
tensors of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fedsplit.boundary import Boundary, State, TensorSpec
from fedsplit.channel.codec import encoded_length
from fedsplit.channel.frame import Frame, Kind
from fedsplit.seeding import generator
from fedsplit.split.checks import check_labels
from fedsplit.split.codecs import IDENTITY, Codec
from fedsplit.split.payload import Content, Payload

LABELS = "labels"
LOSS = "loss"
NUM_CORRECT = "num-correct"
CUT_PREFIX = "cut."
OUTPUT_PREFIX = "output."

Names = tuple[str | int, ...]

_SCORES = {LOSS: TensorSpec((), torch.float32), NUM_CORRECT: TensorSpec((), torch.int64)}
_NOTHING = Boundary({})
_CPU = torch.device("cpu")


class StepFrames(NamedTuple):
    """The frames of one training step, in order."""

    uplink: list[Frame]
    downlink: list[Frame]


@dataclass(frozen=True)
class Wire:
    """The legal frames of a run's steps.

    Attributes
    ----------
    smashed : Boundary
        The smashed data.
    num_labels : int
        Labels are int64 in [0, num_labels); 0 = no upper bound.
    max_batch_size : int
        The largest B.
    output : Boundary | None
        The trunk's output, if labels and top stay on the client (U-shaped); else None.
    cut_gradient : bool
        Whether the server returns the cut gradient.
    output_gradient : bool
        Whether the client sends the gradient of the trunk's output (U-shaped).
    uplink, downlink : Codec
        How floating-point tensors travel in each direction.
    seed : int
        The run's, for codecs that draw.
    """

    smashed: Boundary
    num_labels: int
    max_batch_size: int
    output: Boundary | None = None
    cut_gradient: bool = True
    output_gradient: bool = True
    uplink: Codec = IDENTITY
    downlink: Codec = IDENTITY
    seed: int = 0

    @cached_property
    def payloads(self) -> Mapping[Kind, Payload]:
        """What each kind of frame carries."""
        gradient = self.smashed.floating if self.cut_gradient else _NOTHING
        if self.output is None:
            labels = {LABELS: TensorSpec((1,), torch.int64)}
            return {
                Kind.SMASHED_DATA: Payload(CUT_PREFIX, self.smashed, self.uplink, labels),
                Kind.CUT_GRADIENT: Payload(CUT_PREFIX, gradient, self.downlink, _SCORES),
                Kind.EVALUATION: Payload(CUT_PREFIX, _NOTHING, self.downlink, _SCORES),
            }
        floating = self.output.floating
        return {
            Kind.SMASHED_DATA: Payload(CUT_PREFIX, self.smashed, self.uplink),
            Kind.TRUNK_OUTPUT: Payload(OUTPUT_PREFIX, self.output, self.downlink),
            Kind.OUTPUT_GRADIENT: Payload(OUTPUT_PREFIX, floating, self.uplink),
            Kind.CUT_GRADIENT: Payload(CUT_PREFIX, gradient, self.downlink),
        }

    @cached_property
    def max_frame_bytes(self) -> int:
        """Length of the longest legal frame, in either direction."""
        # For a batch of a few examples the answer is longer than the question.
        step = self.step(self.max_batch_size)
        return max(encoded_length(frame) for frame in (*step.uplink, *step.downlink))

    def step(self, batch_size: int) -> StepFrames:
        """Return the frames of a training step with this many examples; no tensor has storage."""
        up, down = [Kind.SMASHED_DATA], [Kind.CUT_GRADIENT]
        if self.output is not None:
            down = [Kind.TRUNK_OUTPUT]
            if self.output_gradient:
                up, down = [*up, Kind.OUTPUT_GRADIENT], [*down, Kind.CUT_GRADIENT]
        return StepFrames(
            [self.payloads[kind].frame(kind, batch_size) for kind in up],
            [self.payloads[kind].frame(kind, batch_size) for kind in down],
        )

    def pack(
        self, kind: Kind, step: int, state: State, *, stream: Names = (), **scores: Tensor
    ) -> Frame:
        """Return a frame to send.

        Parameters
        ----------
        kind : Kind
            What it carries.
        step : int
            Number of the step, from 0.
        state : State
            The tensors at the boundary; empty where the kind has none.
        stream : Names
            The purpose, round and participant of the stream. With kind and step they seed a codec
            that draws.
        **scores : Tensor
            ``labels``, or ``loss`` and ``num_correct``.
        """
        named = {name.replace("_", "-"): tensor for name, tensor in scores.items()}
        return self.payloads[kind].pack(
            kind,
            step,
            state,
            named,
            lambda: generator(self.seed, "codec", kind.name, *stream, step),
        )

    def unpack(
        self, frame: Frame, *, device: torch.device = _CPU, batch_size: int | None = None
    ) -> Content:
        """Check a received frame of one of the wire's kinds, and return its content.

        Parameters
        ----------
        frame : Frame
            The received frame.
        device : torch.device
            Where to put its tensors (see `Payload.unpack`).
        batch_size : int | None
            B, if it is known; None = as many examples as the frame holds.

        Raises
        ------
        ChannelError
            Names the tensor, what it is and what it must be.
        """
        content = self.payloads[frame.kind].unpack(
            frame, device=device, max_batch_size=self.max_batch_size, batch_size=batch_size
        )
        if LABELS in content.scores:
            check_labels(frame, frame.tensors[LABELS], self.num_labels)
        return content
