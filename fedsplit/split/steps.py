"""One optimizer step and one evaluation, the same arithmetic wherever they run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer

from fedsplit.config import Config
from fedsplit.errors import ChannelError

State = Tensor | dict[str, Tensor]


class StepResult(NamedTuple):
    """What one batch gives.

    Attributes
    ----------
    loss : Tensor
        Mean cross-entropy of the batch, float32 [].
    num_correct : Tensor
        Correct predictions, int64 [].
    """

    loss: Tensor
    num_correct: Tensor


def make_optimizer(parameters: Iterable[nn.Parameter], config: Config) -> Optimizer:
    """Return the configured optimizer; every part of a model has one of its own."""
    if config.optimizer == "sgd":
        return SGD(
            parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
    adam = Adam if config.optimizer == "adam" else AdamW
    return adam(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def score(logits: Tensor, labels: Tensor) -> StepResult:
    """Return loss and hits of a batch: logits [B, C], labels [B]."""
    hits = (logits.detach().argmax(dim=-1) == labels).sum()
    return StepResult(cross_entropy(logits, labels), hits)


@torch.enable_grad()  # the in-process engine calls it from inside an autograd function
def server_step(
    server_part: nn.Module, optimizer: Optimizer, smashed: State, labels: Tensor
) -> tuple[StepResult, State]:
    """Train the server part on one batch of smashed data.

    Returns
    -------
    tuple[StepResult, State]
        The batch's result and the cut gradient, shaped like `smashed`.

    Raises
    ------
    ChannelError
        If the loss is not finite; the server part stays as it was.
    """
    leaves = _leaves(smashed)
    optimizer.zero_grad(set_to_none=True)
    result = score(server_part(_writable(leaves)), labels)
    loss = result.loss.item()
    if not math.isfinite(loss):  # before anything has changed
        raise ChannelError(
            f"Training diverged: the loss of a batch is {loss}. Lower learning-rate."
        )
    torch.autograd.backward(result.loss)
    optimizer.step()
    if isinstance(leaves, Tensor):
        return result, _gradient(leaves)
    return result, {
        name: _gradient(leaf) for name, leaf in leaves.items() if leaf.is_floating_point()
    }


@torch.no_grad()
def evaluate_step(model: nn.Module, inputs: State, labels: Tensor) -> StepResult:
    """Score one batch without training."""
    return score(model(inputs), labels)


def _leaves(smashed: State) -> State:
    if isinstance(smashed, Mapping):
        return {
            name: tensor.detach().requires_grad_(tensor.is_floating_point())
            for name, tensor in smashed.items()
        }
    return smashed.detach().requires_grad_()


def _writable(leaves: State) -> State:
    # As in the whole model, a part may begin with an in-place operation, which a leaf forbids and
    # which must not reach the client's own tensor when there is no wire between them.
    if isinstance(leaves, Mapping):
        return {name: tensor.clone() for name, tensor in leaves.items()}
    return leaves.clone()


def _gradient(leaf: Tensor) -> Tensor:
    # A tensor that the server part does not use has no gradient, and zero is its value.
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
