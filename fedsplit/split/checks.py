"""Checks of a received frame, before anything is computed with it."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from fedsplit.channel.frame import Frame
from fedsplit.errors import ChannelError, shorten


def check_names(frame: Frame, expected: Collection[str]) -> None:
    """Refuse a frame that does not hold exactly these tensors."""
    if set(frame.tensors) != set(expected):
        raise refused(frame, f"holds the tensors {sorted(frame.tensors)}, not {sorted(expected)}")


def check_tensor(frame: Frame, name: str, *, shape: torch.Size, dtype: torch.dtype) -> None:
    """Refuse a tensor of another shape or dtype, or one that holds NaN or infinity."""
    tensor = frame.tensors[name]
    if tensor.shape != shape or tensor.dtype != dtype:
        raise refused(
            frame, f"has '{name}' as {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}"
        )
    if not all_finite(tensor):
        raise refused(frame, f"has NaN or infinity in '{name}'; lower learning-rate")


def check_value(frame: Frame, name: str, value: tuple[int, ...]) -> None:
    """Refuse integers other than these for every example.

    A wrong image size could make the server compute, or allocate, whatever the client likes.
    """
    found = frame.tensors[name].flatten().reshape(-1, len(value))
    if not torch.equal(found, torch.tensor(value, dtype=found.dtype).expand_as(found)):
        raise refused(frame, f"has values in '{name}' other than {list(value)} for each example")


def check_labels(frame: Frame, labels: Tensor, num_labels: int) -> None:
    """Refuse labels outside [0, num_labels); 0 = no upper bound."""
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or (num_labels and highest >= num_labels):
        legal = f"0 to {num_labels - 1}" if num_labels else "0 or more"
        raise refused(frame, f"has labels from {lowest} to {highest}, not {legal}")


def check_order(frame: Frame, *, step: int) -> None:
    """Refuse a frame of another step than the next one."""
    if frame.step != step:
        raise refused(frame, f"has step {frame.step} where step {step} was due")


def all_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity."""
    if not tensor.is_floating_point() or not tensor.numel():
        return bool(torch.isfinite(tensor).all())
    # One pass without the temporaries of `isfinite`, ten times as fast. NaN propagates to both.
    lowest, highest = torch.aminmax(tensor)
    return math.isfinite(lowest.item()) and math.isfinite(highest.item())


def refused(frame: Frame, fault: str) -> ChannelError:
    """Return the error that refuses a frame."""
    return ChannelError(
        f"Refused: the {frame.kind.name} frame of step {frame.step} {shorten(fault)}."
    )
