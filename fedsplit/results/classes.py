"""How well each class is recognised, from a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # reports read this module without torch
    from torch import Tensor

CLASS_KEYS = ("final_balanced_accuracy", "class_accuracy", "confusion_matrix")
NO_CLASSES: Mapping[str, Any] = dict.fromkeys(CLASS_KEYS)
MATRIX_UP_TO = 100
"""Classes up to which the whole matrix is recorded."""


def class_scores(confusion: Tensor | None) -> Mapping[str, Any]:
    """Return what summary.json says about the classes, by `CLASS_KEYS`.

    Balanced accuracy is the mean of the accuracies of all classes that have images.

    Parameters
    ----------
    confusion : Tensor | None
        [classes, classes], int64: images of each true class (rows) by predicted class (columns).
    """
    if confusion is None:
        return NO_CLASSES
    rows = confusion.tolist()
    accuracies = [row[label] / sum(row) if sum(row) else None for label, row in enumerate(rows)]
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    return {
        "final_balanced_accuracy": fmean(known) if known else None,
        "class_accuracy": accuracies,
        "confusion_matrix": rows if len(rows) <= MATRIX_UP_TO else None,
    }
