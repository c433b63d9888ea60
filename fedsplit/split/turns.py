"""Participants that take turns, each in a separate thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from fedsplit.errors import ChannelError
from fedsplit.split.lockstep import GiveUp, keep


class Turns:
    """One participant at a time, in a given order.

    Parameters
    ----------
    seconds : float
        How long the next one waits while the client of the holder computes.
    give_up : GiveUp
        Called, without a lock of this class, for each holder that is late.
    """

    def __init__(self, seconds: float, give_up: GiveUp = keep) -> None:
        self._give_up = give_up
        self._seconds = min(seconds, threading.TIMEOUT_MAX)
        self._lock = threading.Lock()
        self._queue: list[int] = []
        self._waiting: dict[int, threading.Condition] = {}
        self._away_since: float | None = None

    def line_up(self, order: Sequence[int]) -> None:
        """Set the order in which the participants have their turns."""
        with self._lock:
            self._queue, self._away_since = list(order), None
            self._waiting = {p: threading.Condition(self._lock) for p in order}

    def take(self, participant: int) -> None:
        """Wait until every participant before this one has had its turn, or has left.

        Raises
        ------
        ChannelError
            If the participant no longer has a turn.
        """
        while (late := self._wait(participant)) is not None:
            reason = f"its turn has lasted for channel.step-timeout = {self._seconds:g} seconds"
            self._give_up(late, reason)

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
            If it was given up in the meantime.
        """
        with self._lock:
            self._require(participant)
            self._away_since = None

    def leave(self, participant: int) -> None:
        """End a participant's turn, or its wait for one."""
        with self._lock:
            self._remove(participant)

    def close(self) -> None:
        """End all turns; every waiting participant gets an error at once."""
        with self._lock:
            self._queue = []
            for waiting in self._waiting.values():
                waiting.notify()

    def _wait(self, participant: int) -> int | None:
        """Wait for the turn; return the holder if it must be given up instead."""
        with self._lock:
            while self._place(participant) > 0:
                # Only the next in line watches the holder; the others sleep until they are next.
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
            raise ChannelError(f"Refused: client {participant} no longer has a turn in this step.")
        return self._queue.index(participant)
