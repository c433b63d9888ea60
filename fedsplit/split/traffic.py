"""What a participant's training stream carries, known from shapes before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fedsplit.channel.codec import encoded_length
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.ledger import Traffic
from fedsplit.split.checks import CutSpec


class StreamTraffic(NamedTuple):
    """Bytes, and the frames in each direction, of which there are as many."""

    traffic: Traffic
    messages: int


def step_traffic(cut: CutSpec, batch_size: int) -> StreamTraffic:
    """Return the exact bytes of the frames of one training step.

    Parameters
    ----------
    cut : CutSpec
        What crosses.
    batch_size : int
        Examples in the step.
    """
    frames = cut.step(batch_size)
    traffic = Traffic(
        sum(map(encoded_length, frames.uplink)), sum(map(encoded_length, frames.downlink))
    )
    return StreamTraffic(traffic, len(frames.uplink))


def stream_traffic(cut: CutSpec, batch_sizes: Sequence[int]) -> StreamTraffic:
    """Return the exact bytes of a training stream, with the two frames that end it."""
    end = Traffic(encoded_length(Frame(Kind.FINISH, 0)), encoded_length(Frame(Kind.FINISHED, 0)))
    steps = [step_traffic(cut, size) for size in batch_sizes]
    return StreamTraffic(
        sum((step.traffic for step in steps), end), sum(step.messages for step in steps) + 1
    )
