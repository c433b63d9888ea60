"""What a round is for: training, evaluation, or the rendezvous before the first round."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Collection

from torch import nn

from fedsplit.split.exchange import (
    EvaluationExchange,
    Exchange,
    NoExchange,
    TrainingExchange,
    TrunkExchange,
    UShapedExchange,
)
from fedsplit.split.lockstep import GiveUp, Lockstep
from fedsplit.split.rules import UpdateRule
from fedsplit.split.wire import Wire


class Purpose(enum.StrEnum):
    """What a round is for."""

    RENDEZVOUS = "rendezvous"
    TRAIN = "train"
    EVALUATE = "evaluate"


class Phase(ABC):
    """Answers the participants of one round."""

    purpose: Purpose

    @property
    def can_begin_again(self) -> bool:
        """Whether a participant that was dropped can take part from the beginning."""
        return False

    @abstractmethod
    def exchange(self, participant: int) -> Exchange:
        """Return what answers a participant's batches."""

    def begin(self, participant: int) -> None:  # noqa: B027 - not every phase has to
        """Admit a participant that has opened its stream."""

    def finish(self, participant: int) -> None:  # noqa: B027 - not every phase has to
        """Keep the work of a participant that has done all its steps."""

    def drop(self, participant: int) -> None:  # noqa: B027 - not every phase has to
        """Leave out a participant that has failed."""

    def interrupt(self) -> None:  # noqa: B027 - not every phase has to
        """End every wait of one participant for another: the round is over."""


class TrainingPhase(Phase):
    """A round in which a rule updates the server part.

    Parameters
    ----------
    rule : UpdateRule
        How it is updated.
    wire : Wire
        What crosses.
    server_round : int
        From 1.
    participants : Collection[int]
        Who takes part.
    give_up : GiveUp
        Called with a participant that has kept the others waiting for too long.
    """

    purpose = Purpose.TRAIN

    def __init__(
        self,
        rule: UpdateRule,
        wire: Wire,
        *,
        server_round: int,
        participants: Collection[int],
        give_up: GiveUp,
    ) -> None:
        self._rule = rule
        self._wire = wire
        self._server_round = server_round
        rule.server_part.train()
        rule.open_round(server_round, participants, give_up)

    @property
    def can_begin_again(self) -> bool:
        """Whether each participant trains a copy, which can be dropped."""
        return self._rule.copies

    def exchange(self, participant: int) -> Exchange:
        """Return the training exchange of the wire's topology."""
        names = (self.purpose, self._server_round, participant)
        if self._wire.output is None:
            return TrainingExchange(self._wire, names, self._rule)
        if not self._wire.output_gradient:
            return TrunkExchange(self._wire, names, self._rule.server_part)
        return UShapedExchange(self._wire, names, self._rule)

    def begin(self, participant: int) -> None:
        """Let the rule admit the participant."""
        self._rule.begin(participant)

    def finish(self, participant: int) -> None:
        """Let the rule keep the participant's work."""
        self._rule.finish(participant)

    def drop(self, participant: int) -> None:
        """Let the rule leave the participant out."""
        self._rule.drop(participant)

    def interrupt(self) -> None:
        """Let the rule wake all waiting participants."""
        self._rule.interrupt()


class EvaluationPhase(Phase):
    """A round in which participants score the model, and nothing changes."""

    purpose = Purpose.EVALUATE

    def __init__(self, server_part: nn.Module, wire: Wire, *, server_round: int) -> None:
        self._server_part = server_part.eval()
        self._wire = wire
        self._server_round = server_round

    @property
    def can_begin_again(self) -> bool:
        """True: nothing changes."""
        return True

    def exchange(self, participant: int) -> Exchange:
        """Return the exchange without training of the wire's topology."""
        kind = EvaluationExchange if self._wire.output is None else TrunkExchange
        names = (self.purpose, self._server_round, participant)
        return kind(self._wire, names, self._server_part)


class RendezvousPhase(Phase):
    """A round without steps: it shows whether this many participants can be connected at once.

    No participant finishes before all have connected, or have been waited for.

    Parameters
    ----------
    participants : Collection[int]
        Who should connect.
    join_seconds : float
        How long to wait for them.
    give_up : GiveUp
        Called with a participant that has not connected in time.
    """

    purpose = Purpose.RENDEZVOUS

    def __init__(
        self, participants: Collection[int], *, join_seconds: float, give_up: GiveUp
    ) -> None:
        self._lockstep: Lockstep[None, None] = Lockstep(
            join_seconds=join_seconds, step_seconds=join_seconds, give_up=give_up
        )
        self._lockstep.open(participants)

    def exchange(self, participant: int) -> Exchange:
        """Return an exchange that refuses every batch."""
        return NoExchange()

    def begin(self, participant: int) -> None:
        """Admit a participant, unless it has been given up already."""
        self._lockstep.require(participant)

    def finish(self, participant: int) -> None:
        """Wait for the others."""
        self._lockstep.together(participant, None, dict)

    def drop(self, participant: int) -> None:
        """Continue without a participant."""
        self._lockstep.leave(participant)

    def interrupt(self) -> None:
        """Wake all waiting participants."""
        self._lockstep.close()

    @property
    def waiting(self) -> frozenset[int]:
        """The participants that have connected and wait for the others."""
        return self._lockstep.delivered
