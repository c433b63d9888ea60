"""Participants that move from step to step together, each in a separate thread.

Nothing here polls: a thread sleeps until its step is complete or a deadline has passed. A
participant that keeps the others waiting for longer than that is given up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Generic, TypeVar

from fedsplit.errors import ChannelError

Value = TypeVar("Value")
Outcome = TypeVar("Outcome")
GiveUp = Callable[[int, str], object]
"""Called with a participant that the others no longer wait for, and why."""


def keep(participant: int, reason: str) -> None:
    """Do nothing about a late participant."""


class Lockstep(Generic[Value, Outcome]):
    """A step is complete when all participants that still take part have delivered.

    Parameters
    ----------
    join_seconds : float
        How long the first participant of a round waits for the others' first step.
    step_seconds : float
        How long one waits for the others in later steps.
    give_up : GiveUp
        Called, without a lock of this class, for each participant that is late.
    """

    def __init__(self, *, join_seconds: float, step_seconds: float, give_up: GiveUp = keep) -> None:
        self._give_up = give_up
        self._join_seconds = join_seconds
        self._step_seconds = step_seconds
        self._changed = threading.Condition()
        self._active: set[int] = set()
        self._joined = False
        self._delivered: dict[int, Value] = {}
        self._outcomes: dict[int, Outcome | Exception] = {}
        self._served: set[int] = set()
        self._answered: dict[int, float] = {}

    def open(self, participants: Collection[int]) -> None:
        """Begin a round of these participants."""
        with self._changed:
            self._active, self._joined = set(participants), False
            self._delivered, self._outcomes = {}, {}
            self._served, self._answered = set(), {}

    def close(self) -> None:
        """End the round; every waiting participant gets an error at once."""
        self.open(())
        with self._changed:
            self._changed.notify_all()

    def leave(self, participant: int) -> None:
        """Take a participant out of this step and all that follow."""
        with self._changed:
            self._active.discard(participant)
            self._delivered.pop(participant, None)
            self._outcomes.pop(participant, None)
            self._served.discard(participant)
            self._changed.notify_all()

    @property
    def delivered(self) -> frozenset[int]:
        """The participants that wait for the others in the current step."""
        with self._changed:
            return frozenset(self._delivered)

    def serve(self, participants: Collection[int]) -> None:
        """Note that participants still wait for the server after their outcome, so none is late.

        May be called by a step's computation.
        """
        with self._changed:
            self._served |= set(participants)

    def answer(self, participant: int) -> None:
        """Note that a participant has its answer; its time limit for the next frame begins now."""
        with self._changed:
            self._served.discard(participant)
            self._answered[participant] = time.monotonic()

    def require(self, participant: int) -> None:
        """Refuse a participant that no longer takes part.

        Raises
        ------
        ChannelError
            If it has left, has been given up, or the round is over.
        """
        if participant not in self._active:
            raise ChannelError(f"Refused: client {participant} no longer takes part in the round.")

    def together(
        self,
        participant: int,
        value: Value,
        compute: Callable[[Mapping[int, Value]], Mapping[int, Outcome]],
    ) -> Outcome:
        """Deliver a value, wait until every participant has, and return this participant's outcome.

        Parameters
        ----------
        participant : int
            Who delivers.
        value : Value
            What it delivers.
        compute : Callable[[Mapping[int, Value]], Mapping[int, Outcome]]
            Called once for each step, in the thread of one of its participants, with all values
            in the order of participants. An error that it raises is raised for all participants.

        Raises
        ------
        ChannelError
            If the participant does not take part (see `require`).
        """
        late: dict[int, str] = {}
        try:
            with self._changed:
                outcome = self._wait(participant, value, compute, late)
        finally:
            for other, reason in late.items():
                self._give_up(other, reason)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _wait(
        self,
        participant: int,
        value: Value,
        compute: Callable[[Mapping[int, Value]], Mapping[int, Outcome]],
        late: dict[int, str],
    ) -> Outcome | Exception:
        self.require(participant)
        self._delivered[participant] = value
        limit = self._step_seconds if self._joined else self._join_seconds
        start = time.monotonic()
        while participant not in self._outcomes:
            missing = self._active - self._delivered.keys()
            if not missing:
                self._complete(compute)
                continue
            now = time.monotonic()
            due = {k: max(start, self._answered.get(k, start)) + limit for k in missing}
            given_up = {k for k in missing - self._served if due[k] <= now}
            if given_up:
                self._active -= given_up
                late |= dict.fromkeys(given_up, self._lateness(limit))
                continue
            # A participant that is being served cannot be late sooner than `limit` from now.
            wake = min(now + limit if k in self._served else due[k] for k in missing)
            self._changed.wait(min(wake - now, threading.TIMEOUT_MAX))
            self.require(participant)
        return self._outcomes.pop(participant)

    def _complete(self, compute: Callable[[Mapping[int, Value]], Mapping[int, Outcome]]) -> None:
        values = dict(sorted(self._delivered.items()))
        self._delivered = {}
        try:
            self._outcomes |= compute(values)
        except Exception as error:
            self._outcomes |= dict.fromkeys(values, error)
        self._joined = True
        self._changed.notify_all()

    def _lateness(self, limit: float) -> str:
        key = "step" if self._joined else "join"
        what = "next step" if self._joined else "first step"
        return (
            f"the others have waited for its {what} for channel.{key}-timeout = {limit:g} seconds"
        )
