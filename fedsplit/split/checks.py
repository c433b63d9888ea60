"""What a frame must be before the server computes with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedsplit.channel.codec import encoded_length
from fedsplit.channel.frame import (
    CUT_PREFIX,
    LABELS,
    LOSS,
    NUM_CORRECT,
    OUTPUT_PREFIX,
    Frame,
    Kind,
)
from fedsplit.errors import ChannelError, shorten
from fedsplit.states import TensorSpec


class StepFrames(NamedTuple):
    """What crosses the channel for one batch, in order."""

    uplink: list[Frame]
    downlink: list[Frame]


@dataclass(frozen=True)
class CutSpec:
    """What legally crosses the channel.

    Attributes
    ----------
    tensors : Mapping[str, TensorSpec]
        Of the smashed data: name -> what it is for one example, such as
        ``{"hidden": TensorSpec((1, N + 1, D), float32)}``.
    num_labels : int
        Labels are int64 in [0, num_labels).
    max_batch_size : int
        Largest B.
    output : Mapping[str, TensorSpec] | None
        Of the trunk's output, where labels and top stay on the client (U-shaped); else None.
    cut_gradient : bool
        Whether the cut gradient returns: not to a bottom that is frozen.
    output_gradient : bool
        Whether the gradient of the trunk's output comes (U-shaped): not if all before it is frozen.
    """

    tensors: Mapping[str, TensorSpec]
    num_labels: int
    max_batch_size: int
    output: Mapping[str, TensorSpec] | None = None
    cut_gradient: bool = True
    output_gradient: bool = True

    @property
    def max_frame_bytes(self) -> int:
        """Length of the longest legal frame, in either direction."""
        # For a batch of a few examples the answer is the longer one.
        step = self.step(self.max_batch_size)
        return max(encoded_length(frame) for frame in (*step.uplink, *step.downlink))

    def step(self, batch_size: int) -> StepFrames:
        """Return the frames of a training step with so many examples; no tensor has storage."""
        cut = _on_meta(self.tensors, CUT_PREFIX, batch_size)
        gradients = _floating(cut) if self.cut_gradient else {}
        if self.output is None:
            labels = torch.empty(batch_size, dtype=torch.int64, device="meta")
            loss = torch.empty((), device="meta")
            scores = {LOSS: loss, NUM_CORRECT: torch.empty_like(loss, dtype=torch.int64)}
            return StepFrames(
                [Frame(Kind.SMASHED_DATA, 0, {**cut, LABELS: labels})],
                [Frame(Kind.CUT_GRADIENT, 0, {**gradients, **scores})],
            )
        output = _on_meta(self.output, OUTPUT_PREFIX, batch_size)
        frames = StepFrames(
            [Frame(Kind.SMASHED_DATA, 0, cut)], [Frame(Kind.TRUNK_OUTPUT, 0, output)]
        )
        if self.output_gradient:
            frames.uplink.append(Frame(Kind.OUTPUT_GRADIENT, 0, _floating(output)))
            frames.downlink.append(Frame(Kind.CUT_GRADIENT, 0, gradients))
        return frames

    def check(self, frame: Frame) -> int:
        """Refuse smashed data that is not exactly what this cut sends; return B.

        Raises
        ------
        ChannelError
            Names the tensor, what it is and what it must be.
        """
        expected = {CUT_PREFIX + name for name in self.tensors}
        expected |= {LABELS} if self.output is None else set()
        check_names(frame, expected)
        if self.output is None:
            batch_size = self._check_labels(frame, frame.tensors[LABELS])
        else:
            name, spec = next(iter(self.tensors.items()))
            tensor = frame.tensors[CUT_PREFIX + name]
            batch_size = self._check_batch_size(frame, tensor, rows=spec.shape[0])
        self._check_tensors(frame, self.tensors, CUT_PREFIX, batch_size)
        return batch_size

    def check_output_gradient(self, frame: Frame, batch_size: int) -> None:
        """Refuse what is not a gradient of the trunk's output for so many examples.

        Raises
        ------
        ChannelError
            Names the tensor, what it is and what it must be.
        """
        floating = {
            name: spec for name, spec in (self.output or {}).items() if spec.dtype.is_floating_point
        }
        check_names(frame, {OUTPUT_PREFIX + name for name in floating})
        self._check_tensors(frame, floating, OUTPUT_PREFIX, batch_size)

    def _check_tensors(
        self, frame: Frame, tensors: Mapping[str, TensorSpec], prefix: str, batch_size: int
    ) -> None:
        for name, spec in tensors.items():
            shape = spec.shape_for(batch_size)
            check_tensor(frame, prefix + name, shape=shape, dtype=spec.dtype)
            if spec.value is not None:
                _check_value(frame, prefix + name, spec.value)

    def _check_batch_size(self, frame: Frame, tensor: Tensor, rows: int = 1) -> int:
        size = len(tensor) // rows if tensor.ndim else 0
        if not 1 <= size <= self.max_batch_size:
            raise _refused(
                frame, f"has {size} examples, not 1 to batch-size = {self.max_batch_size}"
            )
        return size

    def _check_labels(self, frame: Frame, labels: Tensor) -> int:
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise _refused(
                frame,
                f"has labels of {labels.dtype} {list(labels.shape)}, not torch.int64 [B]",
            )
        batch_size = self._check_batch_size(frame, labels)
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= self.num_labels:
            raise _refused(
                frame, f"has labels from {lowest} to {highest}, not 0 to {self.num_labels - 1}"
            )
        return batch_size


def _on_meta(tensors: Mapping[str, TensorSpec], prefix: str, batch_size: int) -> dict[str, Tensor]:
    return {
        prefix + name: torch.empty(spec.shape_for(batch_size), dtype=spec.dtype, device="meta")
        for name, spec in tensors.items()
    }


def _floating(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def check_names(frame: Frame, expected: set[str]) -> None:
    """Refuse a frame that holds other tensors."""
    if set(frame.tensors) != expected:
        raise _refused(frame, f"holds the tensors {sorted(frame.tensors)}, not {sorted(expected)}")


def check_tensor(frame: Frame, name: str, *, shape: torch.Size, dtype: torch.dtype) -> None:
    """Refuse a tensor of another shape or dtype, or with NaN or infinity in it."""
    tensor = frame.tensors[name]
    if tensor.shape != shape or tensor.dtype != dtype:
        raise _refused(
            frame, f"has '{name}' as {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}"
        )
    if not _all_finite(tensor):
        raise _refused(frame, f"has NaN or infinity in '{name}'; lower learning-rate")


def _check_value(frame: Frame, name: str, value: tuple[int, ...]) -> None:
    # A wrong size of an image could make the server compute, or hold, whatever the client likes.
    found = frame.tensors[name].flatten().reshape(-1, len(value))
    if not torch.equal(found, torch.tensor(value, dtype=found.dtype).expand_as(found)):
        raise _refused(frame, f"has other numbers in '{name}' than {list(value)} for each example")


def _all_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return bool(torch.isfinite(tensor).all())
    # One pass without the temporaries of `isfinite`, ten times as fast; NaN comes out as both.
    lowest, highest = torch.aminmax(tensor)
    return math.isfinite(lowest.item()) and math.isfinite(highest.item())


def check_order(frame: Frame, *, step: int) -> None:
    """Refuse a frame whose step is not the next one."""
    if frame.step != step:
        raise _refused(frame, f"has step {frame.step} where step {step} was due")


def _refused(frame: Frame, fault: str) -> ChannelError:
    return ChannelError(
        f"Refused: the {frame.kind.name} frame of step {frame.step} {shorten(fault)}."
    )
