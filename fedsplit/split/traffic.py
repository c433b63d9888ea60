"""The bytes of a participant's training stream, known from shapes before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fedsplit.channel.codec import encoded_length
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.ledger import Traffic
from fedsplit.split.wire import Wire


class StreamTraffic(NamedTuple):
    """Bytes, and the number of frames in each direction, which is the same."""

    traffic: Traffic
    messages: int


def step_traffic(wire: Wire, batch_size: int) -> StreamTraffic:
    """Return the exact bytes of the frames of one training step.

    Parameters
    ----------
    wire : Wire
        What crosses.
    batch_size : int
        Examples in the step.
    """
    frames = wire.step(batch_size)
    traffic = Traffic(
        sum(map(encoded_length, frames.uplink)), sum(map(encoded_length, frames.downlink))
    )
    return StreamTraffic(traffic, len(frames.uplink))


def stream_traffic(wire: Wire, batch_sizes: Sequence[int]) -> StreamTraffic:
    """Return the exact bytes of a training stream, including the two frames that end it."""
    end = Traffic(encoded_length(Frame(Kind.FINISH, 0)), encoded_length(Frame(Kind.FINISHED, 0)))
    of_size = {size: step_traffic(wire, size) for size in set(batch_sizes)}
    steps = [of_size[size] for size in batch_sizes]
    return StreamTraffic(
        sum((step.traffic for step in steps), end), sum(step.messages for step in steps) + 1
    )
