from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, one_hot

from fedsplit.split.loss import Loss, balanced_weights
from fedsplit.split.steps import score

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 0, 0, 1, 2, 2])


def test_without_arguments_it_is_the_plain_cross_entropy() -> None:
    plain, ours = score(LOGITS, LABELS), Loss()(LOGITS, LABELS)
    assert torch.equal(ours.loss, plain.loss)
    assert torch.equal(ours.num_correct, plain.num_correct)


def test_smoothed_labels_follow_the_formula() -> None:
    target = 0.7 * one_hot(LABELS, 4) + 0.3 / 4
    expected = -(target * log_softmax(LOGITS, -1)).sum(-1).mean()
    assert torch.allclose(Loss(label_smoothing=0.3)(LOGITS, LABELS).loss, expected)


def test_class_weights_multiply_each_example_and_not_the_batch() -> None:
    """Break it: divide by the sum of the weights, as torch does."""
    weights = (0.5, 2.0, 4.0, 1.0)
    factors = torch.tensor(weights)[LABELS]
    expected = (factors * cross_entropy(LOGITS, LABELS, reduction="none")).mean()
    loss = Loss(class_weights=weights)
    assert torch.allclose(loss(LOGITS, LABELS).loss, expected)
    # A batch of one class weighs what the class weighs.
    alone = loss(LOGITS[:3], LABELS[:3]).loss / score(LOGITS[:3], LABELS[:3]).loss
    assert alone.item() == pytest.approx(0.5)


def test_class_weights_multiply_the_loss_of_smoothed_labels() -> None:
    """Break it: give both to torch, which weighs each class in the sum over a smoothed label."""
    weights = (0.5, 2.0, 4.0, 1.0)
    losses = cross_entropy(LOGITS, LABELS, reduction="none", label_smoothing=0.3)
    expected = (torch.tensor(weights)[LABELS] * losses).mean()
    assert torch.allclose(Loss(0.3, weights)(LOGITS, LABELS).loss, expected)


def test_the_loss_of_16_bit_logits_is_float32() -> None:
    loss = Loss(0.1, (1.0,) * 4)(LOGITS.bfloat16(), LABELS).loss
    assert loss.dtype is torch.float32


def test_balanced_weights_make_all_classes_count_the_same() -> None:
    counts = {0: [6, 0, 1, 0], 1: [2, 0, 3, 4]}
    weights = balanced_weights(counts)
    assert weights == (16 / (3 * 8), 0.0, 16 / (3 * 4), 16 / (3 * 4))
    per_class = [w * n for w, n in zip(weights, [8, 0, 4, 4], strict=True)]
    assert per_class == pytest.approx([16 / 3, 0, 16 / 3, 16 / 3])
    assert sum(per_class) / 16 == pytest.approx(1.0)
