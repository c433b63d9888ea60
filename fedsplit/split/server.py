"""The split server: it holds the server part, and answers the participants of one round."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import nn

from fedsplit.channel.endpoint import OnRevoke, nothing
from fedsplit.channel.frame import Kind
from fedsplit.channel.ledger import Traffic
from fedsplit.errors import ChannelError
from fedsplit.snapshot import Snapshot
from fedsplit.split.magnitude import Magnitudes
from fedsplit.split.phases import EvaluationPhase, Phase, Purpose, RendezvousPhase, TrainingPhase
from fedsplit.split.rules import UpdateRule
from fedsplit.split.session import ANY_SIZE, ServerSession
from fedsplit.split.totals import LocalResult, Work
from fedsplit.split.wire import Wire

_log = logging.getLogger(__name__)
_NO_LIMITS: Mapping[int, Work] = MappingProxyType({})
Progress = Callable[[int, int, Purpose], object]
"""Called with the number of finished participants, the number of all, and the purpose."""


def silent(done: int, total: int, purpose: Purpose) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class StreamReport:
    """What the server saw of one participant's stream.

    Attributes
    ----------
    traffic : Traffic
        Exact bytes of its frames.
    uplink_messages, downlink_messages : int
        Received frames, and answers to them.
    answer_seconds : float
        The server's time between the two: arithmetic, and waiting for other participants.
    """

    traffic: Traffic
    uplink_messages: int
    downlink_messages: int
    answer_seconds: float


@dataclass(frozen=True)
class RoundReport:
    """What the server saw of a round.

    Attributes
    ----------
    traffic : Traffic
        Exact bytes of all frames, those of failed participants included.
    num_examples : Mapping[int, int]
        Participant -> examples in its steps, for those that finished.
    failures : Mapping[int, str]
        Participant -> why it did not finish.
    streams : Mapping[int, StreamReport]
        Participant -> its own stream.
    scores : Mapping[int, LocalResult]
        Participant -> what the server has computed of its batches, for those that finished, where
        the server has the labels.
    """

    traffic: Traffic
    num_examples: Mapping[int, int]
    failures: Mapping[int, str]
    streams: Mapping[int, StreamReport]
    scores: Mapping[int, LocalResult] = field(default_factory=dict)


class SplitServer:
    """Answers sessions between `open_round` and `close_round`; a `SessionHost` for any channel.

    Parameters
    ----------
    rule : UpdateRule
        How the server part learns; it holds the server part.
    wire : Wire
        What crosses.
    magnitudes : Mapping[Kind, Magnitudes]
        How large what clients send may be, by kind of frame; what is missing may be of any size.
    """

    def __init__(
        self, *, rule: UpdateRule, wire: Wire, magnitudes: Mapping[Kind, Magnitudes] = ANY_SIZE
    ) -> None:
        self.rule = rule
        self.wire = wire
        self.magnitudes = magnitudes
        self._sessions: dict[str, ServerSession] = {}
        self._phase: Phase | None = None
        self._progress: Progress = silent
        self._work = _NO_LIMITS
        self._progress_lock = threading.Lock()

    @property
    def server_part(self) -> nn.Module:
        """Trunk and top (vanilla), or trunk (U-shaped), as they stand after the last round."""
        return self.rule.server_part

    @property
    def max_frame_bytes(self) -> int:
        """Length of the longest legal frame."""
        return self.wire.max_frame_bytes

    @property
    def sessions(self) -> Mapping[int, ServerSession]:
        """The sessions of the open round, by participant."""
        return {session.participant: session for session in list(self._sessions.values())}

    def open_round(
        self,
        purpose: Purpose,
        participants: Collection[int],
        server_round: int = 1,
        *,
        progress: Progress = silent,
        work: Mapping[int, Work] = _NO_LIMITS,
    ) -> dict[int, str]:
        """Begin a round and return one token per participant, valid for one session.

        Parameters
        ----------
        purpose : Purpose
            What the round is for.
        participants : Collection[int]
            Who may open a stream.
        server_round : int
            From 1; learning rate and random orders derive from it.
        progress : Progress
            Called whenever a participant finishes, never by two threads at once.
        work : Mapping[int, Work]
            Participant -> what it can do at most. One that is not named can do as it likes.
        """
        self.report()  # ends a previous round that was never reported
        self._progress, self._work = progress, work
        self._phase = phase = self._phase_for(purpose, participants, server_round)
        tokens = {participant: secrets.token_urlsafe(32) for participant in participants}
        for participant, token in tokens.items():
            self._sessions[token] = self._session(participant, phase)
        return tokens

    def knows(self, token: str) -> bool:
        """Return whether a token was issued for the open round."""
        return token in self._sessions

    def open(self, token: str, on_revoke: OnRevoke = nothing) -> ServerSession:
        """Return the session of a token; a second stream with one token is refused."""
        session = self._sessions.get(token)
        if session is None:
            raise ChannelError(
                "Refused: the token belongs to no participant of the open round. A token is "
                "valid for one participant and one round."
            )
        session.open(on_revoke)
        return session

    def failed_at(self, token: str) -> float | None:
        """Return when the participant with a token was left out, in seconds of `time.monotonic`.

        None if it was not, or the token is not one of the open round.
        """
        session = self._sessions.get(token)
        return None if session is None else session.failed_at

    def leave_out(self, token: str, reason: str) -> None:
        """End the session of a participant that has failed: nobody waits for its stream."""
        session, phase = self._sessions.get(token), self._phase
        if session is None or phase is None or session.finished:
            return
        session.revoke(reason)
        if not session.opened:
            phase.drop(session.participant)

    def renew(self, token: str) -> str | None:
        """Let a participant whose process has died begin again, and return its token for that.

        None if something of what it has done counts already: where the participants share one
        server part, its steps cannot be taken back. What it has sent counts as sent again.
        """
        session, phase = self._sessions.get(token), self._phase
        if session is None or phase is None:
            return None
        if not session.opened:
            return token if session.failed_at is None else None
        if not phase.can_begin_again:
            return None
        session.revoke("its process has died")
        phase.drop(session.participant)
        renewed = secrets.token_urlsafe(32)
        again = self._session(session.participant, phase)
        spent = session.traffic
        again.traffic.repeated_bytes = (
            spent.uplink_bytes + spent.downlink_bytes + spent.repeated_bytes
        )
        del self._sessions[token]
        self._sessions[renewed] = again
        return renewed

    def report(self) -> RoundReport:
        """End every session of the round, and report each."""
        sessions = list(self._sessions.values())
        self._sessions = {}  # from here on no token opens a stream
        if self._phase is not None:
            self._phase.interrupt()
        for session in sessions:
            session.revoke()
        return RoundReport(
            traffic=sum((session.traffic for session in sessions), Traffic()),
            num_examples={s.participant: s.num_examples for s in sessions if s.finished},
            failures={s.participant: s.failure for s in sessions if not s.finished},
            streams={
                s.participant: StreamReport(
                    s.traffic, s.uplink_messages, s.downlink_messages, s.answer_seconds
                )
                for s in sessions
            },
            scores={s.participant: s.scores for s in sessions if s.finished and s.scores},
        )

    def close_round(self, num_examples: Mapping[int, int]) -> None:
        """Update the server part from the accepted participants of a training round.

        Parameters
        ----------
        num_examples : Mapping[int, int]
            Accepted participant -> its weight n_k.
        """
        if isinstance(self._phase, TrainingPhase):
            self.rule.close_round(num_examples)

    def close(self) -> None:
        """End open sessions and release what the rule holds."""
        self.report()
        self.rule.close()

    def state_dict(self) -> Snapshot:
        """Return what outlives a round. Call it between rounds."""
        shown = {kind.name: each.state_dict() for kind, each in self.magnitudes.items()}
        return {"rule": self.rule.state_dict(), "magnitudes": shown}

    def load_state_dict(self, state: Snapshot) -> None:
        """Continue from what `state_dict` returned."""
        self.rule.load_state_dict(state["rule"])
        for kind, shown in self.magnitudes.items():
            shown.load_state_dict(state["magnitudes"][kind.name])

    def _session(self, participant: int, phase: Phase) -> ServerSession:
        return ServerSession(
            participant,
            phase,
            on_finish=self._show_progress,
            work=self._work.get(participant),
            magnitudes=self.magnitudes,
        )

    def _phase_for(
        self, purpose: Purpose, participants: Collection[int], server_round: int
    ) -> Phase:
        if purpose is Purpose.EVALUATE:
            return EvaluationPhase(self.server_part, self.wire, server_round=server_round)
        if purpose is Purpose.RENDEZVOUS:
            wait = self.rule.settings.join_seconds
            return RendezvousPhase(participants, join_seconds=wait, give_up=self._expel)
        return TrainingPhase(
            self.rule,
            self.wire,
            server_round=server_round,
            participants=participants,
            give_up=self._expel,
        )

    def _expel(self, participant: int, reason: str) -> None:
        """End the session of a participant that the others no longer wait for."""
        for session in list(self._sessions.values()):
            if session.participant == participant:
                session.revoke(reason)
                return

    def _show_progress(self) -> None:
        with self._progress_lock:
            sessions = list(self._sessions.values())
            done = sum(session.finished for session in sessions)
            if self._phase is None:
                return
            try:
                self._progress(done, len(sessions), self._phase.purpose)
            except Exception:  # a broken display must not fail a participant
                _log.exception("The progress cannot be shown")
