"""Optimizer steps on the mean gradient of several batches."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer

from fedsplit.split.training import Training


class Accumulation:
    """Take an optimizer step after every `Training.accumulate_batches` batches.

    The gradient of a step is the mean over the examples of its batches, as if they were one batch.
    Call `begin`, compute the gradient of a batch's mean loss, and call `end` or `undo`.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer.
    training : Training
        How many batches a step has, and how gradients are clipped.
    before_step : Callable[[], None]
        May change the gradients before each step.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        training: Training,
        before_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._optimizer = optimizer
        self._training = training
        self._before_step = before_step
        self._earlier: list[tuple[nn.Parameter, Tensor | None]] = []
        self._num_batches = 0
        self._num_examples = 0

    def begin(self) -> None:
        """Make room for the gradients of a batch, and keep those of the batches before it."""
        groups = self._optimizer.param_groups if self._num_batches else []
        self._earlier = [(weight, weight.grad) for group in groups for weight in group["params"]]
        self._optimizer.zero_grad(set_to_none=True)

    def end(self, num_examples: int) -> None:
        """Add the gradients of a batch; take the step if it is the last one of the step."""
        total = self._num_examples + num_examples
        for weight, earlier in self._earlier:
            if weight.grad is not None:
                weight.grad.mul_(num_examples / total)
            if earlier is not None:
                earlier.mul_(self._num_examples / total)
                weight.grad = earlier if weight.grad is None else weight.grad.add_(earlier)
        self._earlier = []
        self._num_batches += 1
        self._num_examples = total
        if self._num_batches == self._training.accumulate_batches:
            self.finish()

    def undo(self) -> None:
        """Leave out the batch that has begun; the step goes on with the batches before it."""
        self._optimizer.zero_grad(set_to_none=True)
        for weight, earlier in self._earlier:
            weight.grad = earlier
        self._earlier = []

    def finish(self) -> None:
        """Take the step of the batches that are left at the end of a round, if there are any."""
        if self._num_batches:
            self._before_step()
            self._training.update(self._optimizer)
        self._num_batches = self._num_examples = 0
