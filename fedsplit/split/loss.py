"""The loss that training minimises: cross-entropy, with smoothed labels and weighted classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedsplit.split.steps import StepResult, num_correct


@dataclass(frozen=True)
class Loss:
    """Cross-entropy of logits and labels. Without arguments it is `fedsplit.split.steps.score`.

    Attributes
    ----------
    label_smoothing : float
        e: each label becomes 1 - e + e / C for its class and e / C for the C - 1 others (Szegedy
        et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7).
    class_weights : tuple[float, ...]
        The factor of an example's loss, by its class; empty = 1. The loss of a batch of B examples
        is their sum divided by B. torch differs twice. It divides by the sum of the weights, so
        that a batch with images of one class would weigh the same whatever the class. And it
        weighs the C terms of a smoothed label by their own classes, so that every image would be
        drawn towards the rare ones.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def __call__(self, logits: Tensor, labels: Tensor) -> StepResult:
        """Return the loss (at least float32) and the number of correct predictions of a batch.

        Parameters
        ----------
        logits : Tensor
            [B, classes].
        labels : Tensor
            int64 [B].
        """
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        smoothing = self.label_smoothing
        if self.class_weights:
            losses = cross_entropy(precise, labels, reduction="none", label_smoothing=smoothing)
            loss = (precise.new_tensor(self.class_weights)[labels] * losses).mean()
        else:
            loss = cross_entropy(precise, labels, label_smoothing=smoothing)
        return StepResult(loss, num_correct(logits, labels))


def balanced_weights(class_counts: Mapping[int, Sequence[int]]) -> tuple[float, ...]:
    """Return class weights by which all classes count the same: N / (C n_c).

    Their mean over all training images is 1. Classes without images get 0, and C counts the others.

    Parameters
    ----------
    class_counts : Mapping[int, Sequence[int]]
        Client -> number of training images of each class; n_c is the sum over the clients.
    """
    counts = [sum(each) for each in zip(*class_counts.values(), strict=True)]
    present = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (present * count) if count else 0.0 for count in counts)
