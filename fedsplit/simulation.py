"""Flower's Simulation Engine, made wide enough for participants that wait for each other."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

_ENGINE = "flwr.server.superlink.fleet.vce.vce_api"
_MANY_THREADS = 2**15
"""More than there can be clients: a pool starts a thread only for a worker that it is given."""


def widen() -> None:
    """Let Flower's simulation have as many clients at work as it has Ray actors.

    Flower 1.41 starts one worker per actor, but in a thread pool of Python's default size, the
    machine's cores and 4 more. A worker is busy until its client replies, so the actors above
    that number would never get a message, whatever the federation's settings say; and clients
    that wait for those at every step would wait for ever. Only the engine's own name for the
    pool changes, and only in the process that runs the engine.
    """
    engine = sys.modules.get(_ENGINE)
    if hasattr(engine, "ThreadPoolExecutor"):
        vars(engine)["ThreadPoolExecutor"] = partial(ThreadPoolExecutor, _MANY_THREADS)
