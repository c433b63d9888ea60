"""A client's own loops: they are the same whether the rest of the model is here or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedsplit.config import Config
from fedsplit.split.schedule import learning_rate
from fedsplit.split.steps import (
    StepResult,
    make_optimizer,
    score,
    set_learning_rate,
    update,
)

Batch = tuple[Tensor, Tensor]
"""Images float32 [B, C, H, W] and labels int64 [B]."""

Objective = Callable[[Tensor, Tensor], StepResult]
"""Maps a batch to its loss and hits: through the whole model, or through a split session."""


class LocalResult(NamedTuple):
    """What a pass over batches gives: means over examples."""

    num_examples: int
    loss: float
    accuracy: float


def train_batches(
    batches: Iterable[Batch],
    objective: Objective,
    optimizer: Optimizer,
    before_step: Callable[[], None] = lambda: None,
    *,
    clip_norm: float = 0.0,
) -> LocalResult:
    """Take one optimizer step per batch.

    Parameters
    ----------
    batches : Iterable[Batch]
        In the order of the steps.
    objective : Objective
        Gives the loss to descend.
    optimizer : Optimizer
        Of the part that is here.
    before_step : Callable[[], None]
        May change the gradients before each step.
    clip_norm : float
        Largest norm of all gradients together (see `fedsplit.split.steps.update`).
    """
    total = _Total()
    for images, labels in batches:
        optimizer.zero_grad(set_to_none=True)
        result = objective(images, labels)
        if result.loss.requires_grad:  # else nothing trains here
            torch.autograd.backward(result.loss)
        before_step()
        update(optimizer, clip_norm)
        total.add(result, len(labels))
    return total.result()


class PooledTraining:
    """Plain training of a whole model on everyone's images; its optimizer lasts.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits.
    batches : Callable[[int], Iterable[Batch]]
        Round -> its batches.
    config : Config
        Says which optimizer.
    """

    def __init__(
        self, model: nn.Module, batches: Callable[[int], Iterable[Batch]], config: Config
    ) -> None:
        self.model = model
        self._batches = batches
        self._config = config
        self._optimizer = make_optimizer(model.parameters(), config)

    def train(self, server_round: int) -> LocalResult:
        """Train for one round."""
        config = self._config
        set_learning_rate(self._optimizer, learning_rate(config, server_round))
        self.model.train()
        return train_batches(
            self._batches(server_round),
            lambda images, labels: score(self.model(images), labels),
            self._optimizer,
            clip_norm=config.clip_norm,
        )


def proximal_term(model: nn.Module, mu: float) -> Callable[[], None]:
    """Return what adds the gradient of FedProx's proximal term, mu / 2 * ||w - w_0||^2.

    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation 2; w_0 are
    the weights that the model has now, and mu = 0 adds nothing. The reported loss is without it.
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
def evaluate_batches(batches: Iterable[Batch], objective: Objective) -> LocalResult:
    """Score every batch; nothing is trained."""
    total = _Total()
    for images, labels in batches:
        total.add(objective(images, labels), len(labels))
    return total.result()


class _Total:
    def __init__(self) -> None:
        self.num_examples = 0
        self.loss = 0.0
        self.num_correct = 0

    def add(self, result: StepResult, num_examples: int) -> None:
        self.num_examples += num_examples
        self.loss += float(result.loss.detach()) * num_examples
        self.num_correct += int(result.num_correct)

    def result(self) -> LocalResult:
        count = max(self.num_examples, 1)
        return LocalResult(self.num_examples, self.loss / count, self.num_correct / count)
