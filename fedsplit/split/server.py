"""The split server: it holds the server part, and answers the participants of one round."""

from __future__ import annotations

import enum
import logging
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import nn

from fedsplit.channel.endpoint import nothing
from fedsplit.channel.ledger import Traffic
from fedsplit.errors import ChannelError
from fedsplit.split.checks import CutSpec
from fedsplit.split.meeting import Meeting
from fedsplit.split.rules import UpdateRule
from fedsplit.split.session import ServerSession


class Purpose(enum.StrEnum):
    """What a round is for."""

    MEET = "meet"
    TRAIN = "train"
    EVALUATE = "evaluate"


_log = logging.getLogger(__name__)
Progress = Callable[[int, int, Purpose], object]


@dataclass(frozen=True)
class StreamReport:
    """What the server saw of one participant's stream.

    Attributes
    ----------
    traffic : Traffic
        Exact bytes of its frames.
    uplink_messages, downlink_messages : int
        Frames that came, and answers to them.
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
        Exact bytes of all frames, those of failed participants too.
    num_examples : Mapping[int, int]
        Participant -> examples in its steps, for those that finished.
    failures : Mapping[int, str]
        Participant -> why it did not finish.
    streams : Mapping[int, StreamReport]
        Participant -> what became of its own stream.
    """

    traffic: Traffic
    num_examples: Mapping[int, int]
    failures: Mapping[int, str]
    streams: Mapping[int, StreamReport]


class SplitServer:
    """Answers sessions between `open_round` and `close_round`; a `SessionHost` for any channel.

    Parameters
    ----------
    rule : UpdateRule
        How the server part learns; it holds the server part.
    cut : CutSpec
        What legal smashed data is.

    Attributes
    ----------
    progress : Progress
        Told the number of finished participants, that of all, and the round's purpose, each time
        that one finishes; never by two threads at once.
    """

    def __init__(self, *, rule: UpdateRule, cut: CutSpec) -> None:
        self.progress: Progress = lambda done, total, purpose: None
        self._rule = rule
        self._cut = cut
        self._progress_lock = threading.Lock()
        self._sessions: dict[str, ServerSession] = {}
        self._purpose = Purpose.TRAIN
        rule.on_late = self._expel
        rule.cut_gradient = cut.cut_gradient
        self._meeting = Meeting(rule.server_part, rule.config)

    @property
    def server_part(self) -> nn.Module:
        """The trunk and top (vanilla), as they stand after the last round."""
        return self._rule.server_part

    @property
    def max_frame_bytes(self) -> int:
        """Length of the longest legal frame."""
        return self._cut.max_frame_bytes

    def open_round(
        self, purpose: Purpose, participants: Collection[int], server_round: int = 1
    ) -> dict[int, str]:
        """Begin a round and return one token per participant, good for one stream.

        Parameters
        ----------
        purpose : Purpose
            What for.
        participants : Collection[int]
            Who may open a stream.
        server_round : int
            From 1; learning rate and random order derive from it.
        """
        self.report()  # ends what may be left of a round that nobody has asked about
        self._purpose = purpose
        rule = self._rule if purpose is Purpose.TRAIN else None
        if purpose is Purpose.MEET:
            rule = self._meeting
        self.server_part.train(rule is not None)
        if rule is not None:
            rule.open_round(server_round, participants)
        tokens: dict[int, str] = {}
        for participant in participants:
            tokens[participant] = secrets.token_urlsafe(32)
            session = ServerSession(
                participant, server_part=self.server_part, rule=rule, cut=self._cut
            )
            session.on_finish = self._tell_progress
            self._sessions[tokens[participant]] = session
        return tokens

    def open(self, token: str, on_revoke: Callable[[], object] = nothing) -> ServerSession:
        """Return the session of a token; a second stream with one token is refused."""
        session = self._sessions.get(token)
        if session is None:
            raise ChannelError(
                "Refused: the token belongs to no participant of the open round. A token is good "
                "for one participant and one round."
            )
        session.open(on_revoke)
        return session

    def report(self) -> RoundReport:
        """End every session of the round, and say what came of each."""
        sessions = list(self._sessions.values())
        self._sessions = {}  # from here on no token opens a stream
        self._rule.interrupt()
        self._meeting.interrupt()
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
        )

    def close_round(self, num_examples: Mapping[int, int]) -> None:
        """Update the server part from the accepted participants of a training round.

        Parameters
        ----------
        num_examples : Mapping[int, int]
            Accepted participant -> its weight n_k.
        """
        if self._purpose is Purpose.TRAIN:
            self._rule.close_round(num_examples)

    def _expel(self, participant: int, reason: str) -> None:
        """End the session of a participant that the rule has given up."""
        for session in self._sessions.values():
            if session.participant == participant:
                session.revoke(reason)
                return

    def _tell_progress(self) -> None:
        with self._progress_lock:
            sessions = list(self._sessions.values())
            done = sum(session.finished for session in sessions)
            try:
                self.progress(done, len(sessions), self._purpose)
            except Exception:  # a display costs nobody its work
                _log.exception("The progress cannot be shown")

    def close(self) -> None:
        """End open sessions and free what the rule holds."""
        self.report()
        self._rule.close()
