"""The arithmetic of one step and of one evaluation, the same wherever they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsplit.boundary import State, by_name, each
from fedsplit.errors import DivergedError
from fedsplit.split.checks import all_finite


class StepResult(NamedTuple):
    """The score of one batch.

    Attributes
    ----------
    loss : Tensor
        Mean cross-entropy of the batch, float32 [].
    num_correct : Tensor
        Correct predictions, int64 [].
    """

    loss: Tensor
    num_correct: Tensor


def check_gradients(part: nn.Module) -> None:
    """Refuse gradients that would destroy a part.

    Raises
    ------
    DivergedError
        If one of them holds NaN or infinity.
    """
    gradients = [weight.grad for weight in part.parameters() if weight.grad is not None]
    if not math.isfinite(nn.utils.get_total_norm(gradients).item()):
        raise DivergedError("Training diverged: the gradient of a step has NaN or infinity in it.")


@contextmanager
def guarded_buffers(part: nn.Module, whose: Callable[[], str]) -> Iterator[None]:
    """Put a part's buffers back if the block makes one of them NaN or infinite.

    A batch norm takes over the statistics of a batch in the forward pass, and infinity stays.

    Parameters
    ----------
    part : nn.Module
        What computes in the block.
    whose : Callable[[], str]
        Names the batch, for the error.

    Raises
    ------
    DivergedError
        If it was necessary.
    """
    # Statistics, and counters: an index table is neither, and can be large.
    kept = [(b, b.clone()) for b in part.buffers() if b.is_floating_point() or not b.ndim]
    yield
    if not all(all_finite(buffer) for buffer, _ in kept):
        for buffer, before in kept:
            buffer.copy_(before)
        raise DivergedError(
            f"{whose()} makes running statistics of the server part NaN or infinite. They are "
            "as before."
        )


@contextmanager
def unchanged_buffers(*parts: nn.Module) -> Iterator[None]:
    """Put the parts' buffers back after the block, such as running statistics of train mode."""
    kept = [(buffer, buffer.clone()) for part in parts for buffer in part.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def score(logits: Tensor, labels: Tensor) -> StepResult:
    """Return the loss (at least float32) and the number of correct predictions of a batch.

    Logits are [B, classes], labels [B].
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return StepResult(cross_entropy(precise, labels), num_correct(logits, labels))


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the number of correct predictions, int64 []. Logits are [B, classes], labels [B]."""
    return (logits.detach().argmax(dim=-1) == labels).sum()


class PendingStep:
    """The forward pass of a server part, waiting for the gradient of its output.

    Parameters
    ----------
    server_part : Callable[[State], State]
        The computation.
    smashed : State
        Its input for B examples.
    cut_gradient : bool
        Whether to compute the gradient of the input. Without it the backward pass is cheaper.

    Attributes
    ----------
    output : State
        Logits [B, classes] (vanilla), or what the top takes (U-shaped).
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
            # A part may begin with an in-place operation, which autograd forbids on a leaf, and
            # which must not reach the client's own tensor when there is no wire.
            self._graph = server_part(each(self._leaves, Tensor.clone))
        self.output = each(self._graph, Tensor.detach)

    def backward(self, gradient: State) -> State:
        """Accumulate the gradients of the server part's parameters; return the cut gradient.

        Parameters
        ----------
        gradient : State
            The gradient of the loss for each floating-point tensor of `output`.

        Returns
        -------
        State
            Shaped like the floating-point tensors of the smashed data; empty without
            `cut_gradient`.
        """
        outputs, gradients = _pairs(self._graph, gradient)
        torch.autograd.backward(outputs, gradients)
        if not self._cut_gradient:
            return {}
        if isinstance(self._leaves, Tensor):
            return _gradient(self._leaves)
        floating = {n: leaf for n, leaf in self._leaves.items() if leaf.is_floating_point()}
        return {name: _gradient(leaf) for name, leaf in floating.items()}


def input_gradient(top: Callable[[State], Tensor], output: State, labels: Tensor) -> State:
    """Return the gradient of the mean cross-entropy for what a top takes; weights get none.

    Parameters
    ----------
    top : Callable[[State], Tensor]
        Returns logits [B, classes].
    output : State
        What it takes.
    labels : Tensor
        int64 [B].
    """
    leaves = each(output, _leaf)
    with torch.enable_grad():
        loss = score(top(each(leaves, Tensor.clone)), labels).loss
    floating = {n: leaf for n, leaf in by_name(leaves).items() if leaf.is_floating_point()}
    found = torch.autograd.grad(loss, list(floating.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(floating.items(), found, strict=True)
    }


def output_gradient(
    logits: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], StepResult] = score
) -> tuple[StepResult, Tensor]:
    """Return a batch's score and the gradient of its loss for the logits [B, classes].

    Parameters
    ----------
    logits, labels : Tensor
        [B, classes], and int64 [B].
    loss : Callable[[Tensor, Tensor], StepResult]
        What training minimises.

    Raises
    ------
    DivergedError
        If the loss is not finite.
    """
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        result = loss(leaf, labels)
    value = result.loss.item()
    if not math.isfinite(value):  # before anything has changed
        raise DivergedError(f"Training diverged: the loss of a batch is {value}.")
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
    # A tensor that the server part does not use gets no gradient from autograd: it is zero.
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
