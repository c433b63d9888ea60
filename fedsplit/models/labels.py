"""Class names as a saved model has them: one for each logit, no two alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedsplit.errors import ModelError


def label_names(class_names: Sequence[str], num_labels: int) -> list[str]:
    """Return a name for each logit of a model.

    Parameters
    ----------
    class_names : Sequence[str]
        In the order of the logits. A name that occurs more than once gets its index, so that
        names can be mapped back to classes: ``cat (0)``, ``cat (3)``.
    num_labels : int
        Logits of the model. Those without a class are called ``LABEL_7``, as in transformers.

    Raises
    ------
    ModelError
        If there are more names than logits.
    """
    if len(class_names) > num_labels:
        raise ModelError(
            f"There are {len(class_names)} class names for a model of {num_labels} logits. Give at "
            "most one name for each logit, or load the model with that many num_labels."
        )
    rest = [f"LABEL_{index}" for index in range(len(class_names), num_labels)]
    return _distinct([*class_names, *rest])


def _distinct(names: list[str]) -> list[str]:
    counts = Counter(names)
    numbered = [f"{name} ({index})" for index, name in enumerate(names)]
    changed = [new if counts[old] > 1 else old for old, new in zip(names, numbered, strict=True)]
    # One name may look like another with its index; with an index each, no two are alike.
    return changed if len(set(changed)) == len(names) else numbered
