"""Participants that take turns, each in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from fedsplit.errors import ChannelError
from fedsplit.split.lockstep import GiveUp


class Turns:
    """One participant at a time, in a given order.

    Parameters
    ----------
    seconds : float
        How long the next one waits for a holder whose client computes.

    Attributes
    ----------
    on_late : Callable[[int, str], object]
        Told of each holder that is given up, and why; called without a lock of this class.
    """

    def __init__(self, seconds: float) -> None:
        self.on_late: GiveUp = lambda participant, reason: None
        self._seconds = min(seconds, threading.TIMEOUT_MAX)
        self._lock = threading.Lock()
        self._queue: list[int] = []
        self._waiting: dict[int, threading.Condition] = {}
        self._away_since: float | None = None

    def line_up(self, order: Sequence[int]) -> None:
        """Say in which order the participants have their turns."""
        with self._lock:
            self._queue, self._away_since = list(order), None
            self._waiting = {p: threading.Condition(self._lock) for p in order}

    def take(self, participant: int) -> None:
        """Wait until everyone before this participant has had its turn, or is gone.

        Raises
        ------
        ChannelError
            If the participant has no turn any more.
        """
        while (late := self._wait(participant)) is not None:
            reason = f"its turn has lasted for channel.step-timeout = {self._seconds:g} seconds"
            self.on_late(late, reason)

    def lend(self, participant: int) -> None:
        """Note that the holder's client computes now, for a limited time."""
        with self._lock:
            self._require(participant)
            self._away_since = time.monotonic()

    def resume(self, participant: int) -> None:
        """Note that the holder's client has answered.

        Raises
        ------
        ChannelError
            If it has been given up meanwhile.
        """
        with self._lock:
            self._require(participant)
            self._away_since = None

    def leave(self, participant: int) -> None:
        """End a participant's turn, or its wait for one."""
        with self._lock:
            self._remove(participant)

    def close(self) -> None:
        """End all turns; whoever waits is told so at once."""
        with self._lock:
            self._queue = []
            for waiting in self._waiting.values():
                waiting.notify()

    def _wait(self, participant: int) -> int | None:
        """Wait for the turn; return the holder instead, if it has to be given up."""
        with self._lock:
            while self._place(participant) > 0:
                # Only the next one watches the holder; the others sleep until they are next.
                limit = self._seconds if self._place(participant) == 1 else None
                if self._waiting[participant].wait(limit) or self._away_since is None:
                    continue
                if time.monotonic() - self._away_since >= self._seconds:
                    holder = self._queue[0]
                    self._remove(holder)
                    return holder
        return None

    def _remove(self, participant: int) -> None:
        if participant not in self._queue:
            return
        if self._queue[0] == participant:
            self._away_since = None
        self._queue.remove(participant)
        self._waiting[participant].notify()
        for other in self._queue[:2]:  # the new holder, and the one that now watches it
            self._waiting[other].notify()

    def _require(self, participant: int) -> None:
        if self._place(participant) != 0:
            raise ChannelError(f"Refused: it is not the turn of client {participant}.")

    def _place(self, participant: int) -> int:
        if participant not in self._queue:
            raise ChannelError(f"Refused: client {participant} has no turn any more in this step.")
        return self._queue.index(participant)
