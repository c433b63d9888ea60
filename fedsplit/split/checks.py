"""What a frame must be before the server computes with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsplit.channel.codec import encoded_length
from fedsplit.channel.frame import CUT_PREFIX, LABELS, LOSS, NUM_CORRECT, Frame, Kind
from fedsplit.errors import ChannelError, shorten

TensorSpec = tuple[tuple[int, ...], torch.dtype]
"""Shape for one example (without B) and dtype."""


@dataclass(frozen=True)
class CutSpec:
    """The legal smashed data of one cut.

    Attributes
    ----------
    tensors : Mapping[str, TensorSpec]
        Name -> shape of one example and dtype, such as ``{"hidden": ((N + 1, D), float32)}``.
    num_labels : int
        Labels are int64 in [0, num_labels).
    max_batch_size : int
        Largest B.
    """

    tensors: Mapping[str, TensorSpec]
    num_labels: int
    max_batch_size: int

    @property
    def max_frame_bytes(self) -> int:
        """Length of the longest legal frame, in either direction."""
        cut = {
            CUT_PREFIX + name: torch.empty((self.max_batch_size, *shape), dtype=dtype)
            for name, (shape, dtype) in self.tensors.items()
        }
        labels = torch.empty(self.max_batch_size, dtype=torch.int64)
        gradients = {name: t for name, t in cut.items() if t.is_floating_point()}
        scores = {LOSS: torch.empty(()), NUM_CORRECT: torch.empty((), dtype=torch.int64)}
        # For a batch of a few examples the answer is the longer one.
        return max(
            encoded_length(Frame(Kind.SMASHED_DATA, 0, {**cut, LABELS: labels})),
            encoded_length(Frame(Kind.CUT_GRADIENT, 0, {**gradients, **scores})),
        )

    def check(self, frame: Frame) -> None:
        """Refuse smashed data that is not exactly what this cut sends.

        Raises
        ------
        ChannelError
            Names the tensor, what it is and what it must be.
        """
        expected = {CUT_PREFIX + name for name in self.tensors} | {LABELS}
        if set(frame.tensors) != expected:
            raise _refused(
                frame, f"holds the tensors {sorted(frame.tensors)}, not {sorted(expected)}"
            )
        batch_size = self._check_labels(frame, frame.tensors[LABELS])
        for name, (shape, dtype) in self.tensors.items():
            check_tensor(
                frame, CUT_PREFIX + name, shape=torch.Size((batch_size, *shape)), dtype=dtype
            )

    def _check_labels(self, frame: Frame, labels: Tensor) -> int:
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise _refused(
                frame,
                f"has labels of {labels.dtype} {list(labels.shape)}, not torch.int64 [B]",
            )
        if not 1 <= len(labels) <= self.max_batch_size:
            raise _refused(
                frame, f"has {len(labels)} examples, not 1 to batch-size = {self.max_batch_size}"
            )
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= self.num_labels:
            raise _refused(
                frame, f"has labels from {lowest} to {highest}, not 0 to {self.num_labels - 1}"
            )
        return len(labels)


def check_tensor(frame: Frame, name: str, *, shape: torch.Size, dtype: torch.dtype) -> None:
    """Refuse a tensor of another shape or dtype, or with NaN or infinity in it."""
    tensor = frame.tensors[name]
    if tensor.shape != shape or tensor.dtype != dtype:
        raise _refused(
            frame, f"has '{name}' as {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise _refused(frame, f"has NaN or infinity in '{name}'; lower learning-rate")


def check_order(frame: Frame, *, step: int) -> None:
    """Refuse a frame whose step is not the next one."""
    if frame.step != step:
        raise _refused(frame, f"has step {frame.step} where step {step} was due")


def _refused(frame: Frame, fault: str) -> ChannelError:
    return ChannelError(
        f"Refused: the {frame.kind.name} frame of step {frame.step} {shorten(fault)}."
    )
