"""Update rules: how the server part learns from the participants' steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar

from torch import Tensor, nn

from fedsplit.config import Config
from fedsplit.split.lockstep import GiveUp
from fedsplit.split.steps import StepResult, output_gradient
from fedsplit.states import State


class UpdateRule(ABC):
    """What the split server does with the steps of a training round.

    A step is a forward and a backward call; the update is part of the backward call. Calls for one
    participant never overlap; those for different participants may.

    Attributes
    ----------
    on_late : Callable[[int, str], object]
        Told of each participant that the rule has given up, and why.
    cut_gradient : bool
        Whether `backward` returns a cut gradient, or nothing: clients may have no use for it.
    """

    copies: ClassVar[bool] = False
    """Whether each participant trains a copy of the server part, with an optimizer of its own."""

    def __init__(self, server_part: nn.Module, config: Config) -> None:
        self.server_part = server_part
        self.config = config
        self.on_late: GiveUp = lambda participant, reason: None
        self.cut_gradient = True

    @classmethod
    def batches_at_once(cls, server_part: nn.Module, participants: int, length: int) -> int:
        """Return of how many batches one backward pass of the server part has the activations.

        Parameters
        ----------
        server_part : nn.Module
            What trains.
        participants : int
            In a round.
        length : int
            Of a batch (see `fedsplit.states.length`).
        """
        return 1

    @abstractmethod
    def open_round(self, server_round: int, participants: Collection[int]) -> None:
        """Begin a round; only these participants will take part."""

    @abstractmethod
    def begin(self, participant: int) -> None:
        """Take in a participant that has opened its stream."""

    @abstractmethod
    def forward(self, participant: int, smashed: State) -> State:
        """Run the server part on a batch: logits [B, classes], or what the top takes."""

    @abstractmethod
    def backward(self, participant: int, gradient: State) -> State:
        """Update with the gradient of the output of `forward`; return the cut gradient.

        The gradient is that of the mean loss over the participant's batch, and so is what comes
        back.
        """

    def step(self, participant: int, smashed: State, labels: Tensor) -> tuple[StepResult, State]:
        """Train on one batch whose labels are here; return its result and the cut gradient."""
        logits = self.forward(participant, smashed)
        assert isinstance(logits, Tensor)
        result, gradient = output_gradient(logits, labels)
        return result, self.backward(participant, gradient)

    @abstractmethod
    def finish(self, participant: int) -> None:
        """Keep the work of a participant that has done all its steps."""

    @abstractmethod
    def drop(self, participant: int) -> None:
        """Leave a participant out that has failed, whatever it has done so far."""

    @abstractmethod
    def interrupt(self) -> None:
        """End every wait of one participant for another: the round is over."""

    def give_up(self, participant: int, reason: str) -> None:
        """Have a participant's session ended, because the others have waited for too long."""
        self.on_late(participant, reason)

    @abstractmethod
    def close_round(self, num_examples: Mapping[int, int]) -> None:
        """Update the server part from the accepted participants.

        Parameters
        ----------
        num_examples : Mapping[int, int]
            Participant -> examples it trained on; the weight n_k.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the rule holds."""
