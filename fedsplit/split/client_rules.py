"""Client rules: a client's half of an algorithm, from a batch of images to a loss.

An algorithm of `strategies/` names a client rule and an update rule. To add a client rule, derive
from `SplitClient` (or from `ClientRule`, if the model is not split) and override `train_step`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedsplit.boundary import Boundary, State
from fedsplit.fields import Field
from fedsplit.snapshot import Snapshot
from fedsplit.split.client import SplitSession
from fedsplit.split.defences import NO_DEFENCE, Defence
from fedsplit.split.divergence import own_rule
from fedsplit.split.local import Batch, BatchLoss, train_batches
from fedsplit.split.steps import StepResult, score
from fedsplit.split.totals import LocalResult
from fedsplit.split.training import Training


@dataclass(frozen=True)
class ClientSide:
    """What a client has while it handles one message.

    Attributes
    ----------
    bottom : nn.Module
        Its bottom; the whole model, if it is not split.
    draw : Callable[..., torch.Generator]
        Maps names to a generator that derives from the run's seed, the round, the client and the
        names: ``draw("noise")``.
    training : Training
        Optimizer, learning rate and clipping.
    top : nn.Module | None
        Its top, if labels stay with the client (U-shaped).
    added : Mapping[str, nn.Module]
        The modules of `ClientRule.added_modules`, with the weights of this round.
    defence : Defence
        Changes the smashed data before they are sent.
    """

    bottom: nn.Module
    draw: Callable[..., torch.Generator]
    training: Training
    top: nn.Module | None = None
    added: Mapping[str, nn.Module] = field(default_factory=dict)
    defence: Defence = NO_DEFENCE


class ClientRule(ABC):
    """What a client does with its batches. A new instance is made for every message.

    Parameters
    ----------
    side : ClientSide
        What the client has.
    """

    splits: ClassVar[bool] = False
    """Whether it works with the split server."""
    keeps_weights: ClassVar[bool] = False
    """Whether each client keeps its trained weights for its next round, and is not sent them."""
    uses_cut_gradient: ClassVar[bool] = True
    """Whether the server returns the cut gradient."""
    sends_every_batch: ClassVar[bool] = True
    """Whether every batch reaches the split server, which then checks the number of examples."""
    steps_per_batch: ClassVar[int] = 1
    """How often each batch of training is sent to the split server, which bounds the steps by it.

    With `sends_every_batch` it is exact, and otherwise a maximum. Unless it is 1, the scores of
    training are not compared with the server's, whatever `scores_on_server` says.
    """
    scores_on_server: ClassVar[bool] = True
    """Whether loss and accuracy of a vanilla round are those that the split server has computed.

    Then a reply with others is refused. A rule that reports another score says so here.
    """
    cross_entropy: ClassVar[bool] = True
    """Whether the loss that the split server reports is a cross-entropy: one below 0 is refused."""
    works_u_shaped: ClassVar[bool] = True
    """Whether it works in the U-shaped topology, where labels and top stay with the client."""
    metrics: ClassVar[tuple[Field, ...]] = ()
    """What `measured` reports of each round of training."""

    def __init__(self, side: ClientSide) -> None:
        self.side = side

    @classmethod
    def added_modules(cls, smashed: Boundary, num_labels: int) -> Mapping[str, nn.Module]:
        """Return modules that every client adds to its part, such as an auxiliary head.

        They train with the client's optimizer, are averaged between rounds like the bottom, and
        count in the client's parameters, FLOPs and memory. They are not part of the final model.
        Server and clients call this under the same seed.

        Parameters
        ----------
        smashed : Boundary
            The smashed data: each module's input.
        num_labels : int
            Classes.
        """
        return {}

    @abstractmethod
    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        """Return the loss of one batch. The loop around it takes the optimizer step.

        Parameters
        ----------
        images : Tensor
            Float32 [B, C, H, W].
        labels : Tensor
            int64 [B].
        """

    @abstractmethod
    def evaluate_step(self, images: Tensor, labels: Tensor) -> StepResult:
        """Score one batch; nothing is trained."""

    def train(
        self,
        batches: Iterable[Batch],
        optimizer: Optimizer,
        before_step: Callable[[], None] = lambda: None,
    ) -> LocalResult:
        """Train one round: one optimizer step for each batch.

        Parameters
        ----------
        batches : Iterable[Batch]
            The batches of the round, in order.
        optimizer : Optimizer
            The optimizer of all trainable weights that the client holds.
        before_step : Callable[[], None]
            Changes the gradients before each step, such as FedProx's term.
        """
        return train_batches(
            batches,
            self.train_step,
            optimizer,
            self.side.training,
            before_step,
            own_rule(type(self)),
        )

    def measured(self) -> Mapping[str, float]:
        """Return the values of `metrics`, by key, after a round of training."""
        return {}

    def state_dict(self) -> Snapshot:
        """Return what this client keeps until its next round, besides weights and optimizer."""
        return {}

    def load_state_dict(self, state: Snapshot) -> None:  # noqa: B027 - most rules keep nothing
        """Continue from what `state_dict` returned in this client's last round."""


class WholeModel(ClientRule):
    """Train the whole model: FedAvg's client."""

    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        """Return the loss of the model's logits."""
        return BatchLoss.of(self.side.training.loss(self.side.bottom(images), labels))

    def evaluate_step(self, images: Tensor, labels: Tensor) -> StepResult:
        """Score one batch with the model."""
        return score(self.side.bottom(images), labels)


class SplitClient(ClientRule):
    """Train the bottom with the cut gradient; in the U-shaped topology also the top.

    Parameters
    ----------
    side : ClientSide
        What the client has.
    session : SplitSession
        Its session with the split server.
    """

    splits = True

    def __init__(self, side: ClientSide, session: SplitSession) -> None:
        super().__init__(side)
        self.session = session
        self._num_batches = 0

    def smashed(self, images: Tensor) -> State:
        """Return the smashed data of a batch, protected by the run's defence."""
        draw = partial(self.side.draw, "defence", self._num_batches)
        self._num_batches += 1
        return self.side.defence.protect(self.side.bottom(images), draw)

    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        """Return a loss whose backward pass continues with the cut gradient."""
        smashed, top = self.smashed(images), self.side.top
        if top is None:
            return BatchLoss.of(self.session.train_step(smashed, labels))
        return BatchLoss.of(self.side.training.loss(top(self.session.trunk(smashed)), labels))

    def evaluate_step(self, images: Tensor, labels: Tensor) -> StepResult:
        """Score one batch with the server's part of the model."""
        smashed, top = self.smashed(images), self.side.top
        if top is None:
            return self.session.evaluate_step(smashed, labels)
        return score(top(self.session.evaluate_trunk(smashed)), labels)


class OwnBottom(SplitClient):
    """As `SplitClient`, but each client keeps its own bottom (SplitFed V3)."""

    keeps_weights = True
