"""Python's garbage collector, which waits while the command line imports large libraries.

Torch, transformers and datasets make half a million objects that stay as long as the process. The
collector would go through them again and again: a fifth of the time to a run's first step.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_waits = False


@contextmanager
def waiting_collector() -> Iterator[None]:
    """Collect nothing until `collect_again`, or the end of the block.

    Only for a process of our own: what exists at `collect_again` is not collected before the end.
    Where somebody else has stopped the collector or frozen objects, nothing is changed.
    """
    global _waits  # noqa: PLW0603 - the collector exists once in a process, too
    if not gc.isenabled() or gc.get_freeze_count():
        yield
        return
    gc.disable()
    _waits = True
    try:
        yield
    finally:
        collect_again()
        gc.unfreeze()


def collect_again() -> None:
    """Collect what is made from now on, if `waiting_collector` waits."""
    global _waits  # noqa: PLW0603
    if _waits:
        _waits = False
        gc.freeze()  # or the first collection would take back half of the time
        gc.enable()
