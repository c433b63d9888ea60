"""A round of two good clients, and frames for a third to send."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedsplit.channel.frame import Frame, Kind
from tests.split.toys import (
    Client,
    Weights,
    batches_of,
    bottom_of,
    expected_round,
    smashed_frame,
)

GOOD = {0: batches_of(0, 8, 8, 3), 1: batches_of(1, 8, 1)}
BAD = 2


def good_frame(step: int, *, size: int = 4) -> Frame:
    images, labels = batches_of(BAD, size)[0]
    with torch.no_grad():
        return smashed_frame(step, bottom_of()(images), labels)


def changed(step: int, **tensors: Tensor | None) -> Frame:
    merged: dict[str, Tensor | None] = {**good_frame(step).tensors}
    merged.update({name.replace("_", "."): tensor for name, tensor in tensors.items()})
    kept = {name: tensor for name, tensor in merged.items() if tensor is not None}
    return Frame(Kind.SMASHED_DATA, step, kept)


def spoiled(value: float) -> Tensor:
    tensor = torch.ones(4, 4)
    tensor[2, 3] = value
    return tensor


def reference_round() -> Weights:
    return expected_round(GOOD)


def train_good(address: str, tokens: Mapping[int, str]) -> None:
    for participant, batches in GOOD.items():
        Client(address, tokens[participant]).train(batches)
