"""Stop the clients that run in threads of this process: a thread cannot be interrupted.

Ctrl-C raises KeyboardInterrupt in the main thread only. Loops over batches ask here before each
batch, so that a client's thread ends within one batch and not after all its epochs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fedsplit.errors import RunError

_requested = threading.Event()


@contextmanager
def stopping_loops() -> Iterator[None]:
    """Let every loop over batches in this process end, while the block waits for its thread.

    A process makes one run at a time, so all its loops are those of the run that is ending.
    """
    _requested.set()
    try:
        yield
    finally:
        _requested.clear()


def check_interruption() -> None:
    """Raise if the run of this process is being stopped.

    Raises
    ------
    RunError
        Ends the thread's work; nobody reads it.
    """
    if _requested.is_set():
        raise RunError("The run is being stopped.")
