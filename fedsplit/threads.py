"""The number of threads and cores that a run uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def available_cores() -> int:
    """Return the number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads in the block, and restore the number afterwards.

    The number of threads can change the last bits of a sum, so every engine sets the same number.
    It is a property of the process, so blocks in several threads at the same time would interfere.
    A process therefore makes one run at a time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
