"""The outcome of many batches, and how many of them there can be."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

from fedsplit.split.steps import StepResult


class LocalResult(NamedTuple):
    """The outcome of a pass over batches: means over examples."""

    num_examples: int
    loss: float
    accuracy: float

    def agrees_with(self, other: LocalResult) -> bool:
        """Whether both have scored the same examples in the same way."""
        return self.num_examples == other.num_examples and all(
            math.isclose(one, another, rel_tol=1e-6, abs_tol=1e-9)
            for one, another in ((self.loss, other.loss), (self.accuracy, other.accuracy))
        )


class Total:
    """Adds up the scores of batches."""

    def __init__(self) -> None:
        self.num_examples = 0
        self.loss = 0.0
        self.num_correct = 0

    def add(self, result: StepResult, num_examples: int) -> None:
        """Add a batch's score, of so many examples."""
        self.num_examples += num_examples
        self.loss += float(result.loss.detach()) * num_examples
        self.num_correct += int(result.num_correct)

    def result(self) -> LocalResult:
        """Return the means so far."""
        count = max(self.num_examples, 1)
        return LocalResult(self.num_examples, self.loss / count, self.num_correct / count)


class Work(NamedTuple):
    """The most that a participant can do in a round.

    Attributes
    ----------
    num_images : int
        The images that it has.
    steps, examples : int
        The batches that it can send, and the examples in these: each batch `steps_per_batch` times.
    steps_per_batch : int
        How often it sends a batch (see `fedsplit.split.client_rules.ClientRule`).
    """

    num_images: int
    steps: int
    examples: int
    steps_per_batch: int = 1

    @property
    def trained(self) -> int:
        """The examples that it trains on or scores: each batch counts once."""
        return self.examples // self.steps_per_batch

    @classmethod
    def of(
        cls, num_images: int, batch_size: int, epochs: int = 1, steps_per_batch: int = 1
    ) -> Self:
        """Return what follows from a client's images."""
        batches = epochs * math.ceil(num_images / batch_size)
        examples = epochs * num_images
        return cls(
            num_images, steps_per_batch * batches, steps_per_batch * examples, steps_per_batch
        )
