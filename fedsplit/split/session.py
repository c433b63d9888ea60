"""The server's end of one participant's stream: every frame is checked before it counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from fedsplit.channel.endpoint import OnRevoke, nothing
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.ledger import Traffic
from fedsplit.errors import ChannelError
from fedsplit.split.checks import check_order
from fedsplit.split.magnitude import Magnitudes
from fedsplit.split.phases import Phase
from fedsplit.split.totals import LocalResult, Work

NEVER_OPENED = "it never opened its stream"
ANY_SIZE: Mapping[Kind, Magnitudes] = MappingProxyType({})
_REVOKED = "it had not finished when the round ended"


def _nobody_waits() -> None:
    """Do nothing when a participant has finished."""


class ServerSession:
    """One participant in one round.

    Parameters
    ----------
    participant : int
        Its partition id.
    phase : Phase
        What the round is for.
    on_finish : Callable[[], object]
        Called when the participant has finished.
    work : Work | None
        What the participant can do at most; None = as much as it likes.
    magnitudes : Mapping[Kind, Magnitudes]
        How large what it sends may be, by kind of frame.

    Attributes
    ----------
    uplink_messages, downlink_messages : int
        Received frames, and answers to them.
    failed_at : float | None
        When the server has left the participant out, in seconds of `time.monotonic`.
    answer_seconds : float
        Time from a frame's arrival to its answer, over all frames: arithmetic, and waiting for
        other participants.
    """

    def __init__(
        self,
        participant: int,
        phase: Phase,
        on_finish: Callable[[], object] = _nobody_waits,
        work: Work | None = None,
        magnitudes: Mapping[Kind, Magnitudes] = ANY_SIZE,
    ) -> None:
        self.participant = participant
        self.traffic = Traffic()
        self.uplink_messages = self.downlink_messages = 0
        self.answer_seconds = 0.0
        self.finished = False
        self.failure = NEVER_OPENED
        self.failed_at: float | None = None
        self._on_finish = on_finish
        self._phase = phase
        self._exchange = phase.exchange(participant)
        self._exchange.work, self._exchange.magnitudes = work, magnitudes
        self._opened = False
        self._open = False
        self._revoked = False
        # `close` is called from other threads while a frame is being answered
        self._lock = threading.Lock()
        self._on_revoke: OnRevoke = nothing

    @property
    def num_examples(self) -> int:
        """Examples in the batches that have been answered in full."""
        return self._exchange.num_examples

    @property
    def scores(self) -> LocalResult | None:
        """What the server has computed of these batches, or None: the client has the labels."""
        return self._exchange.scores

    @property
    def num_steps(self) -> int:
        """Batches that have been answered in full."""
        return self._exchange.num_steps

    @property
    def opened(self) -> bool:
        """Whether the participant has opened its stream."""
        return self._opened

    def open(self, on_revoke: OnRevoke = nothing) -> None:
        """Admit the participant, only once. `on_revoke` is called if the server ends it."""
        with self._lock:
            if self._opened or self._revoked:
                raise ChannelError(
                    f"Refused: the token of client {self.participant} has been used already, or "
                    "its round is over. A token is valid for one stream of one round."
                )
            self._opened = True
            self._on_revoke = on_revoke
            self._phase.begin(self.participant)
            self._open = True
            self.failure = "its stream is still open"

    def handle(self, frame: Frame) -> Frame:
        """Answer one frame; a refused one ends the session and leaves the server as it was.

        Raises
        ------
        ChannelError
            If the frame is not exactly the next legal one.
        """
        arrived = time.perf_counter()
        with self._lock:
            self.uplink_messages += 1
            if self._revoked and self._open:
                self._drop(_REVOKED)
            if not self._open:
                raise ChannelError(f"Refused: the session is closed ({self.failure}).")
            try:
                answer = self._answer(frame)
            except ChannelError as error:
                self._drop(str(error))
                raise
            self.downlink_messages += 1
            self.answer_seconds += time.perf_counter() - arrived
            return answer

    def close(self, reason: str) -> None:
        """End the session; unless it has finished, its contribution is dropped."""
        with self._lock:
            if self._open:
                self._drop(reason)

    def revoke(self, reason: str = _REVOKED) -> None:
        """End the session from the server's side."""
        self._revoked = True  # before the lock, which steps in quick succession could keep
        with self._lock:
            cut_off = self._open
            if cut_off:
                self._drop(reason)
            elif not self._opened and reason is not _REVOKED:
                self.failure += f": {reason}"
                self.failed_at = time.monotonic()
        if cut_off:
            self._on_revoke(reason)

    def _answer(self, frame: Frame) -> Frame:
        check_order(frame, step=self._exchange.num_steps)
        if frame.kind is not Kind.FINISH or frame.tensors or not self._exchange.between_steps:
            return self._exchange.answer(frame)
        self._phase.finish(self.participant)
        self.finished, self._open, self.failure = True, False, "it has finished"
        self._on_finish()
        return Frame(Kind.FINISHED, frame.step)

    def _drop(self, reason: str) -> None:
        self._open = False
        self.failure = reason
        self.failed_at = time.monotonic()
        self._phase.drop(self.participant)
