"""An aggregator of the user's own: a class that a config names, or an instance.

What fedsplit decides itself it decides here, too: it samples by partition id, and aggregates all
accepted replies. An aggregator that is made for something else is refused, and not overruled.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    FedXgbBagging,
    FedXgbCyclic,
    Strategy,
)

from fedsplit.errors import ConfigError

OURS: Mapping[str, object] = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
    "weighted_by_key": "num-examples",
    "arrayrecord_key": "arrays",
    "configrecord_key": "config",
    "train_loss_key": "loss",
}
"""What fedsplit decides for every aggregator."""
_FLOWERS = {
    "min_train_nodes": 2,
    "min_evaluate_nodes": 2,
    "min_available_nodes": 2,
    "train_loss_key": "train_loss",
}
"""Flower's defaults where they differ."""
_KEYS = {
    "fraction_train": "Set fraction-train instead, and leave fraction_train at 1.0.",
    "fraction_evaluate": "Set fraction-evaluate instead, and leave fraction_evaluate at 1.0.",
    "min_train_nodes": "Set min-participants instead, and leave min_train_nodes out.",
}


_CLIPS = "its clients have to clip what they train by a mod of Flower's, which fedsplit's do not."
_UNFIT = {
    FedXgbBagging: "it combines trees, not weights.",
    FedXgbCyclic: "it combines trees, not weights.",
    DifferentialPrivacyClientSideFixedClipping: _CLIPS,
    DifferentialPrivacyClientSideAdaptiveClipping: _CLIPS,
}
"""Classes of Flower -> why they would do something else than they say."""


def run_copy(given: Strategy) -> Strategy:
    """Return a copy of an instance for one run: what a run leaves in it is not for the next one.

    Raises
    ------
    ConfigError
        If it cannot be copied, or is made for another way of sampling.
    """
    try:
        copied = copy.deepcopy(given)
    except Exception as error:  # whatever the user's class raises
        raise ConfigError(
            f"The aggregator {type(given).__name__} cannot be copied ({type(error).__name__}: "
            f"{error}), and each run gets a copy of its own. Give its class instead, with "
            "aggregation.options, or keep nothing in it that copy.deepcopy refuses."
        ) from error
    adopt(copied)
    return copied


def adopt(aggregator: Strategy) -> None:
    """Let an aggregator take what fedsplit decides, and any that it wraps.

    Raises
    ------
    ConfigError
        If it was made for something else.
    """
    for each in wrapped(aggregator):
        for kind, reason in _UNFIT.items():
            if isinstance(each, kind):
                raise ConfigError(
                    f"The aggregator {type(each).__name__} does not work here: {reason} Choose "
                    "another one."
                )
        for name, ours in OURS.items():
            if name not in vars(each):
                continue
            value = vars(each)[name]
            if value not in (ours, _FLOWERS.get(name, ours)):
                remedy = _KEYS.get(name, f"Leave it at {_FLOWERS.get(name, ours)!r}.")
                raise ConfigError(
                    f"The aggregator {type(each).__name__} has {name} = {value!r}, which has no "
                    f"place in a run: fedsplit samples the participants. {remedy}"
                )
            setattr(each, name, ours)


def options_of(aggregator: Strategy) -> str:
    """Return an instance's settings in the form of ``aggregation.options``.

    They make the config say how the instance was made, and a run that continues notices another.
    """
    pairs = []
    for number, each in enumerate(wrapped(aggregator)):
        prefix = "strategy." * number
        pairs += [
            f"{prefix}{name} = {json.dumps(value)}"
            for name, value in vars(each).items()
            if isinstance(value, bool | int | float | str)
            and not name.startswith("_")
            and name not in OURS
        ]
    return ", ".join(pairs)


def wrapped(aggregator: Strategy) -> Iterator[Strategy]:
    """Yield an aggregator, and those that it wraps, as Flower's differential privacy does."""
    seen: set[int] = set()
    inner: Any = aggregator
    while isinstance(inner, Strategy) and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        inner = vars(inner).get("strategy")
