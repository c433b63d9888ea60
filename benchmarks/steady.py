"""Throughput from the end times of steps, without the start and the end of a window."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fedsplit.split.local import Batch


class Step(NamedTuple):
    """One training step.

    Attributes
    ----------
    ended : float
        When it ended, in seconds of the monotonic clock, which all processes of a machine share.
    num_examples : int
        The size of its batch, B.
    """

    ended: float
    num_examples: int


Log = list[Step]
"""The steps of one stream of work, in order."""


def logged(batches: Iterable[Batch], log: Log) -> Iterator[Batch]:
    """Yield batches, and log the end of the step of each: when the next batch is requested."""
    for images, labels in batches:
        yield images, labels
        log.append(Step(time.monotonic(), len(labels)))


def for_seconds(batches: Iterable[Batch], seconds: float) -> Iterator[Batch]:
    """Yield batches until the time is over, but at least two."""
    deadline = time.monotonic() + seconds
    for number, batch in enumerate(batches):
        if number >= 2 and time.monotonic() >= deadline:
            return
        yield batch


def throughput(logs: Sequence[Log]) -> float:
    """Return the samples per second of streams that run at the same time.

    The time counts from the moment when all streams have done a first step to the moment when the
    first stream has done its last: between them, all streams work. The time between two steps of a
    stream, such as the change from one client to the next, is included.
    """
    start = max(log[0].ended for log in logs)
    end = min(log[-1].ended for log in logs)
    samples = sum(step.num_examples for log in logs for step in log if start < step.ended <= end)
    return samples / (end - start)
