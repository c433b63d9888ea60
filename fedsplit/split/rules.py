"""Update rules: how the server part learns from the participants' steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from fedsplit.boundary import State
from fedsplit.exchanged_state import exchanged, load_exchanged
from fedsplit.fields import Field
from fedsplit.snapshot import Snapshot
from fedsplit.split.lockstep import GiveUp, keep
from fedsplit.split.steps import StepResult, output_gradient
from fedsplit.split.training import Training


@dataclass(frozen=True)
class RuleSettings:
    """What an update rule works with, besides the server part.

    Attributes
    ----------
    training : Training
        Optimizer, learning rate, clipping and seed.
    join_seconds, step_seconds : float
        How long participants wait for each other's first step of a round, and for each later one,
        where the rule makes them wait.
    cut_gradient : bool
        Whether `UpdateRule.backward` returns the cut gradient, or nothing.
    """

    training: Training
    join_seconds: float = 60.0
    step_seconds: float = 60.0
    cut_gradient: bool = True


class UpdateRule(ABC):
    """What the split server does with the steps of a training round.

    A step is a `forward` and a `backward` call; the update is part of `backward`. Calls for one
    participant never overlap; calls for different participants may.

    Parameters
    ----------
    server_part : nn.Module
        Trunk and top (vanilla), or trunk (U-shaped).
    settings : RuleSettings
        What it works with.
    """

    copies: ClassVar[bool] = False
    """Whether each participant trains a copy of the server part, with a separate optimizer."""
    metrics: ClassVar[tuple[Field, ...]] = ()
    """What `measured` reports."""

    def __init__(self, server_part: nn.Module, settings: RuleSettings) -> None:
        self.server_part = server_part
        self.settings = settings
        self._give_up: GiveUp = keep

    @classmethod
    def batches_at_once(cls, server_part: nn.Module, participants: int, length: int) -> int:
        """Return how many batches' activations one backward pass of the server part holds.

        Parameters
        ----------
        server_part : nn.Module
            What trains.
        participants : int
            In a round.
        length : int
            The length of a batch (see `fedsplit.boundary.length`).
        """
        return 1

    @abstractmethod
    def open_round(
        self, server_round: int, participants: Collection[int], give_up: GiveUp = keep
    ) -> None:
        """Begin a round.

        Parameters
        ----------
        server_round : int
            From 1.
        participants : Collection[int]
            The only ones that will take part.
        give_up : GiveUp
            Called with a participant that has kept the others waiting too long, and the reason.
        """
        self._give_up = give_up

    @abstractmethod
    def begin(self, participant: int) -> None:
        """Admit a participant that has opened its stream."""

    @abstractmethod
    def forward(self, participant: int, smashed: State) -> State:
        """Run the server part on a batch: logits [B, classes], or what the top takes."""

    @abstractmethod
    def backward(self, participant: int, gradient: State) -> State:
        """Update with the gradient of the output of `forward`; return the cut gradient.

        Both gradients are those of the mean loss over the participant's batch.
        """

    def step(self, participant: int, smashed: State, labels: Tensor) -> tuple[StepResult, State]:
        """Train on one batch whose labels are here; return its score and the cut gradient."""
        logits = self.forward(participant, smashed)
        assert isinstance(logits, Tensor)
        result, gradient = output_gradient(logits, labels, self.settings.training.loss)
        return result, self.backward(participant, gradient)

    @abstractmethod
    def finish(self, participant: int) -> None:
        """Keep the work of a participant that has finished all its steps."""

    @abstractmethod
    def drop(self, participant: int) -> None:
        """Leave out a participant that has failed, with everything it has done so far."""

    @abstractmethod
    def interrupt(self) -> None:
        """End every wait of one participant for another: the round is over."""

    def give_up(self, participant: int, reason: str) -> None:
        """End the session of a participant that the others have waited for too long."""
        self._give_up(participant, reason)

    @abstractmethod
    def close_round(self, num_examples: Mapping[int, int]) -> None:
        """Update the server part from the accepted participants.

        Parameters
        ----------
        num_examples : Mapping[int, int]
            Participant -> number of examples it trained on: the weight n_k.
        """

    def weigh_classes(self, weights: Iterable[float]) -> None:
        """Set the factor of each class in the loss, once the clients' images are counted."""
        training = self.settings.training
        loss = replace(training.loss, class_weights=tuple(weights))
        self.settings = replace(self.settings, training=replace(training, loss=loss))

    def measured(self) -> Mapping[str, float]:
        """Return the values of `metrics` for the round that was closed last."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Release what the rule holds."""

    def state_dict(self) -> Snapshot:
        """Return what outlives a round. Call it between rounds."""
        return {"server_part": dict(exchanged(self.server_part))}

    def load_state_dict(self, state: Snapshot) -> None:
        """Continue from what `state_dict` returned."""
        load_exchanged(self.server_part, state["server_part"])
