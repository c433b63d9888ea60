"""Loops over batches, the same for a whole model and for a client's part of a split one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedsplit.errors import ConfigError, RunError
from fedsplit.exchanged_state import exchanged, load_exchanged
from fedsplit.interruption import check_interruption
from fedsplit.snapshot import Snapshot, is_finite, load_optimizer_state, optimizer_state
from fedsplit.split.accumulation import Accumulation
from fedsplit.split.divergence import check_gradients, check_loss
from fedsplit.split.steps import StepResult
from fedsplit.split.totals import LocalResult, Total
from fedsplit.split.training import Training

Batch = tuple[Tensor, Tensor]
"""Images float32 [B, C, H, W] and labels int64 [B]."""


class BatchLoss(NamedTuple):
    """The loss of one batch. The minimised and the reported loss may differ.

    Attributes
    ----------
    descended : Tensor
        The loss that the step minimises, []. Without an autograd graph nothing trains here.
    reported : StepResult
        The score that counts in the round's loss and accuracy.
    """

    descended: Tensor
    reported: StepResult

    @classmethod
    def of(cls, result: StepResult) -> BatchLoss:
        """Minimise the reported loss."""
        return cls(result.loss, result)


Objective = Callable[[Tensor, Tensor], BatchLoss]
"""Maps a batch to its loss: through the whole model, or through a split session."""


def train_batches(
    batches: Iterable[Batch],
    objective: Objective,
    optimizer: Optimizer,
    training: Training,
    before_step: Callable[[], None] = lambda: None,
    own: str | None = None,
) -> LocalResult:
    """Train on batches, with one optimizer step for each, or for several of them.

    Parameters
    ----------
    batches : Iterable[Batch]
        In the order of the steps.
    objective : Objective
        Returns the loss to minimise, and the one to report.
    optimizer : Optimizer
        The optimizer of the weights in this process.
    training : Training
        How many batches a step has, and how to clip gradients.
    before_step : Callable[[], None]
        May change the gradients before each step.
    own : str | None
        What the user has written of the objective, and where: it is named if a loss or a gradient
        is not finite.

    Raises
    ------
    DivergedError
        If that is so.
    """
    total = Total()
    steps = Accumulation(optimizer, training, before_step)
    for images, labels in batches:
        check_interruption()
        steps.begin()
        loss = objective(images, labels)
        _check_type(loss)
        if own is not None:
            check_loss(own, loss.descended, loss.reported.loss)
        if loss.descended.requires_grad:
            torch.autograd.backward(loss.descended)
        elif any(group["params"] for group in optimizer.param_groups):
            raise ConfigError(
                "The loss of a batch depends on no weight that trains at this client. Return it "
                "from train_step, and smashed data from a defence, without detach()."
            )
        if own is not None:
            check_gradients(own, optimizer)
        steps.end(len(labels))
        total.add(loss.reported, len(labels))
    steps.finish()
    return total.result()


def _check_type(loss: object) -> None:
    """Refuse what a rule of the user's own has returned instead of a batch's loss."""
    told = type(loss).__name__
    if isinstance(loss, BatchLoss):
        reported: object = loss.reported
        if isinstance(reported, StepResult):
            return
        told = f"a BatchLoss whose 'reported' is {type(reported).__name__}"
    raise ConfigError(
        f"train_step has returned {told}, not BatchLoss(Tensor, StepResult). Return "
        "BatchLoss.of(result) of a StepResult, such as that of score(logits, labels), or "
        "BatchLoss(descended, reported) where the minimised loss is another one."
    )


class PooledTraining:
    """Train a whole model on the pooled images, with one optimizer for the run.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits.
    batches : Callable[[int], Iterable[Batch]]
        Round -> its batches.
    training : Training
        What it trains with.
    """

    def __init__(
        self, model: nn.Module, batches: Callable[[int], Iterable[Batch]], training: Training
    ) -> None:
        self.model = model
        self._batches = batches
        self._training = training
        self._optimizer = training.make_optimizer(model.named_parameters())

    def train(self, server_round: int) -> LocalResult:
        """Train for one round.

        Raises
        ------
        RunError
            If the optimizer's state is not finite afterwards: it would never recover.
        """
        self._training.set_rate(self._optimizer, server_round)
        self.model.train()
        result = train_batches(
            self._batches(server_round),
            lambda images, labels: BatchLoss.of(self._training.loss(self.model(images), labels)),
            self._optimizer,
            self._training,
        )
        if not is_finite(optimizer_state(self._optimizer)):
            raise RunError(
                f"Training diverged: the optimizer holds NaN or infinity after round "
                f"{server_round}. Lower learning-rate, or set clip-norm."
            )
        return result

    def state_dict(self) -> Snapshot:
        """Return the model's trained weights and the optimizer."""
        return {
            "model": dict(exchanged(self.model)),
            "optimizer": optimizer_state(self._optimizer),
        }

    def load_state_dict(self, state: Snapshot) -> None:
        """Continue from what `state_dict` returned."""
        load_exchanged(self.model, state["model"])
        load_optimizer_state(self._optimizer, state["optimizer"])


def proximal_term(model: nn.Module, mu: float) -> Callable[[], None]:
    """Return a function that adds the gradient of FedProx's term, mu / 2 * ||w - w_0||^2.

    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation 2. w_0 are
    the model's current weights. The reported loss leaves the term out.
    """
    if mu == 0.0:
        return lambda: None
    start = [(w, w.detach().clone()) for w in model.parameters() if w.requires_grad]

    def add_gradient() -> None:
        for weight, initial in start:
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - initial, alpha=mu)

    return add_gradient


@torch.no_grad()
def evaluate_batches(
    batches: Iterable[Batch], objective: Callable[[Tensor, Tensor], StepResult]
) -> LocalResult:
    """Score every batch; nothing is trained."""
    total = Total()
    for images, labels in batches:
        check_interruption()
        total.add(objective(images, labels), len(labels))
    return total.result()
