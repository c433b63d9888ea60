"""One optimizer step and one evaluation, the same arithmetic wherever they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer

from fedsplit.config import Config
from fedsplit.errors import ChannelError
from fedsplit.split.schedule import learning_rate
from fedsplit.states import State, each


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


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: Config, server_round: int = 1
) -> Optimizer:
    """Return the configured optimizer, with the learning rate of a round.

    Every part of a model has one of its own, for those of its parameters that train. An optimizer
    that lives longer than a round is given each round's rate by `set_learning_rate`.
    """
    rate = learning_rate(config, server_round)
    # A group, because there may be nothing in it: torch takes no empty list of parameters.
    group = [{"params": [weight for weight in parameters if weight.requires_grad]}]
    if config.optimizer == "sgd":
        return SGD(group, lr=rate, momentum=config.momentum, weight_decay=config.weight_decay)
    adam = Adam if config.optimizer == "adam" else AdamW
    return adam(group, lr=rate, weight_decay=config.weight_decay)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Change the rate of an optimizer, and keep its state."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def check_gradients(part: nn.Module) -> None:
    """Refuse to go on with gradients that would spoil a part for good.

    Raises
    ------
    ChannelError
        If one of them has NaN or infinity in it.
    """
    gradients = [weight.grad for weight in part.parameters() if weight.grad is not None]
    if not math.isfinite(nn.utils.get_total_norm(gradients).item()):
        raise ChannelError(
            "Training diverged: the gradient of a step has NaN or infinity in it. Lower "
            "learning-rate."
        )


def update(optimizer: Optimizer, clip_norm: float) -> None:
    """Take an optimizer's step, with the norm of all its gradients together limited.

    Parameters
    ----------
    optimizer : Optimizer
        Of one part, whose gradients are there.
    clip_norm : float
        Gradients with a larger Euclidean norm are scaled down to it (Pascanu et al., "On the
        difficulty of training recurrent neural networks", ICML 2013); 0 = no limit.
    """
    if clip_norm:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        nn.utils.clip_grad_norm_(weights, clip_norm)
    optimizer.step()


def score(logits: Tensor, labels: Tensor) -> StepResult:
    """Return loss (in float32 at least) and hits of a batch: logits [B, C], labels [B]."""
    hits = (logits.detach().argmax(dim=-1) == labels).sum()
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return StepResult(cross_entropy(precise, labels), hits)


class PendingStep:
    """The forward pass of a server part, until the gradient of its output comes.

    Parameters
    ----------
    server_part : Callable[[State], State]
        What computes.
    smashed : State
        Its input for B examples.
    cut_gradient : bool
        Whether the gradient of the input is wanted; it costs a product for each weight's.

    Attributes
    ----------
    output : State
        What it gives: logits [B, classes] (vanilla), or what the top takes (U-shaped).
    """

    def __init__(
        self,
        server_part: Callable[[State], State],
        smashed: State,
        *,
        cut_gradient: bool = True,
    ) -> None:
        self._cut_gradient = cut_gradient
        self._leaves = each(smashed, _leaf if cut_gradient else Tensor.detach)
        # The in-process engine calls it from inside an autograd function.
        with torch.enable_grad():
            # As in the whole model, a part may begin with an in-place operation, which a leaf
            # forbids and which must not reach the client's own tensor when there is no wire.
            self._graph = server_part(each(self._leaves, Tensor.clone))
        self.output = each(self._graph, Tensor.detach)

    def backward(self, gradient: State) -> State:
        """Add the gradients of the server part's parameters, and return the cut gradient.

        Parameters
        ----------
        gradient : State
            The loss's gradient for each floating tensor of `output`.

        Returns
        -------
        State
            Shaped like the smashed data; its floating tensors only, and none if none is wanted.
        """
        outputs, gradients = _pairs(self._graph, gradient)
        torch.autograd.backward(outputs, gradients)
        if not self._cut_gradient:
            return {}
        if isinstance(self._leaves, Tensor):
            return _gradient(self._leaves)
        floating = {n: leaf for n, leaf in self._leaves.items() if leaf.is_floating_point()}
        return {name: _gradient(leaf) for name, leaf in floating.items()}


def output_gradient(logits: Tensor, labels: Tensor) -> tuple[StepResult, Tensor]:
    """Return a batch's result and the gradient of its loss for the logits [B, classes].

    Raises
    ------
    ChannelError
        If the loss is not finite.
    """
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        result = score(leaf, labels)
    loss = result.loss.item()
    if not math.isfinite(loss):  # before anything has changed
        raise ChannelError(
            f"Training diverged: the loss of a batch is {loss}. Lower learning-rate."
        )
    torch.autograd.backward(result.loss)
    return StepResult(result.loss.detach(), result.num_correct), _gradient(leaf)


@torch.no_grad()
def evaluate_step(model: nn.Module, inputs: State, labels: Tensor) -> StepResult:
    """Score one batch without training."""
    return score(model(inputs), labels)


def _pairs(outputs: State, gradients: State) -> tuple[list[Tensor], list[Tensor]]:
    if isinstance(outputs, Mapping):
        assert isinstance(gradients, Mapping)
        names = [name for name, tensor in outputs.items() if tensor.requires_grad]
        return [outputs[name] for name in names], [gradients[name] for name in names]
    assert isinstance(gradients, Tensor)
    return [outputs], [gradients]


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())


def _gradient(leaf: Tensor) -> Tensor:
    # A tensor that the server part does not use has no gradient, and zero is its value.
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
