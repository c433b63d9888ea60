"""Class names as a saved model has them: one for each logit, no two alike."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedsplit.errors import ModelError
from fedsplit.names import some

_logger = logging.getLogger(__name__)


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


def tell_other_classes(
    model_name: str, config: Mapping[str, Any], class_names: Sequence[str]
) -> None:
    """Log a warning if a checkpoint's classifier, which a run keeps, is one of other classes.

    It is kept if it has as many logits as the run has classes.

    Parameters
    ----------
    model_name : str
        As the user calls it.
    config : Mapping[str, Any]
        The checkpoint's config, in which each library has its own place for the names.
    class_names : Sequence[str]
        Of the run, in the order of the logits.
    """
    stored = stored_names(config)
    expected = label_names(class_names, len(class_names))
    if len(stored) != len(expected) or stored == expected or are_generic(stored):
        return
    _logger.warning(
        "The classifier of '%s' was trained on %s: %s. The run's are: %s. Training starts from it "
        "all the same, so the first rounds begin badly.",
        model_name,
        "the same classes in another order" if set(stored) == set(expected) else "other classes",
        *(some(stored, 10), some(expected, 10)),
    )


_GENERIC = re.compile(r"LABEL_\d+")


def are_generic(names: Sequence[str]) -> bool:
    """Return whether names say no more than which logit they are of, as in transformers."""
    return all(map(_GENERIC.fullmatch, names))


def stored_names(config: Mapping[str, Any]) -> list[str]:
    """Return the names of a checkpoint's classes in the order of its logits; empty if unknown."""
    by_id = config.get("id2label")
    if isinstance(by_id, Mapping) and all(str(key).isdecimal() for key in by_id):
        return [str(by_id[key]) for key in sorted(by_id, key=int)]
    names = config.get("label_names") or config.get("class_names") or []
    return [str(name) for name in names] if isinstance(names, list | tuple) else []


def _distinct(names: list[str]) -> list[str]:
    counts = Counter(names)
    numbered = [f"{name} ({index})" for index, name in enumerate(names)]
    changed = [new if counts[old] > 1 else old for old, new in zip(names, numbered, strict=True)]
    # One name may look like another with its index; with an index each, no two are alike.
    return changed if len(set(changed)) == len(names) else numbered
