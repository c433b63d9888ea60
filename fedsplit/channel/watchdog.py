"""A time limit for calls that have none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Watchdog:
    """Call `expire` once if a ``with`` block of this object takes longer than `seconds`.

    Entering and leaving the block only write a number, and the watchdog's thread wakes once per
    `seconds`. So the limit costs a step almost nothing.
    """

    def __init__(self, seconds: float, expire: Callable[[], object]) -> None:
        self.expired = False
        self._seconds = min(seconds, threading.TIMEOUT_MAX)
        self._expire = expire
        self._deadline: float | None = None
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="fedsplit-watchdog", daemon=True).start()

    def __enter__(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def __exit__(self, *_: object) -> None:
        self._deadline = None

    def stop(self) -> None:
        """End the thread; the limit no longer holds."""
        self._stopped.set()

    def _watch(self) -> None:
        wait = self._seconds
        while not self._stopped.wait(wait):
            deadline = self._deadline
            wait = self._seconds if deadline is None else deadline - time.monotonic()
            if wait <= 0:
                self.expired = True
                self._expire()
                return
