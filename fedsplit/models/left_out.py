"""Say which weights of a checkpoint a model has no place for, such as a decoder of pretraining."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from functools import cache

from torch import nn

from fedsplit.models.storage import kept_buffers, weight_slots

_logger = logging.getLogger(__name__)


def tell_left_out(model_name: str, model: nn.Module, names: Collection[str]) -> None:
    """Log them, once in a process.

    Parameters
    ----------
    model_name : str
        As the user calls it.
    model : nn.Module
        What was filled.
    names : Collection[str]
        What the checkpoint holds and the model lacks. Tables that a model computes itself, and
        older checkpoints hold, are not told.
    """
    weights = set(names) - kept_buffers(model).keys()
    if weights:
        _log(model_name, type(model).__name__, len(weights), _grouped(model, weights))


@cache  # every participant in this process reads the same checkpoint
def _log(model_name: str, class_name: str, count: int, groups: str) -> None:
    _logger.warning(
        "The model '%s': %d weights of its checkpoint have no place in %s and are left out: %s.",
        *(model_name, count, class_name, groups),
    )


def _grouped(model: nn.Module, names: Collection[str]) -> str:
    """Name the modules that are missing as a whole, and how many weights each has."""
    places = {place for name, _ in weight_slots(model) for place in _places(name)}
    missing = (next(p for p in _places(name) if p not in places) for name in sorted(names))
    counts = Counter(missing).items()
    return ", ".join(place if count == 1 else f"{place} ({count})" for place, count in counts)


def _places(name: str) -> list[str]:
    """Return ``a``, ``a.b`` and ``a.b.c`` of ``a.b.c``."""
    parts = name.split(".")
    return [".".join(parts[: length + 1]) for length in range(len(parts))]
