"""Metrics that a strategy, client rule or update rule declares beside the built-in fields."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from fedsplit.errors import ConfigError
from fedsplit.fields.field import Field, OverClients, OverRounds
from fedsplit.fields.table import FIELDS

DECLARED_KEY = "declared_metrics"
"""The key of summary.json that holds the descriptions of a run's metrics."""
METRICS_GROUP = "metrics"
"""The group of all declared metrics in TensorBoard and Weights & Biases."""
LONGEST_LABEL = 60
LONGEST_UNIT = 16

# What every reply measures beside a rule's metrics; and what results.csv has as columns of its own,
# beside the keys of the summary.
_RESERVED = frozenset({*FIELDS, DECLARED_KEY, "loss", "accuracy", "setting", "label"})


@dataclass(frozen=True)
class Metric(Field):
    """A declared metric: a number per round, and one for the whole run.

    By default a round's value is the mean over its participants, weighted by their numbers of
    examples, and the run's value is that of the last round.

    Examples
    --------
    >>> Metric("smashed_norm", "norm of the smashed data").over_clients
    'mean'

    Raises
    ------
    ConfigError
        If the key is not ``lower_snake_case`` or is that of a built-in field, the label or unit
        cannot be shown in one line, or a way to aggregate is unknown.
    """

    def __post_init__(self) -> None:
        """Refuse what cannot be recorded or shown."""
        for fault in _faults(self):
            raise ConfigError(f"The metric {self.key!r} cannot be declared: {fault}.")

    def description(self) -> dict[str, str]:
        """Return it as summary.json keeps it: `Metric(**description)` is equal to it."""
        return asdict(self)


def declare(metrics: Iterable[Field]) -> tuple[Metric, ...]:
    """Return the metrics of all rules of a run, checked, each key once.

    Parameters
    ----------
    metrics : Iterable[Field]
        Several rules may declare the same metric.

    Raises
    ------
    ConfigError
        If one is invalid (see `Metric`), or two that differ have the same key.
    """
    found: dict[str, Metric] = {}
    for field in metrics:
        if not isinstance(field, Field):
            raise ConfigError(f"A metric must be a Metric(key, label, ...), not {field!r}.")
        metric = Metric(*(getattr(field, each.name) for each in fields(Field)))
        if found.setdefault(metric.key, metric) != metric:
            raise ConfigError(
                f"The metric '{metric.key}' is declared twice with different descriptions: "
                f"{found[metric.key].description()} and {metric.description()}. Make them equal, "
                "or rename one."
            )
    return tuple(found.values())


def checked_values(measured: object, metrics: Iterable[Field], *, rule: type) -> dict[str, float]:
    """Return what a rule has measured, as numbers.

    Parameters
    ----------
    measured : object
        What its ``measured()`` returned.
    metrics : Iterable[Field]
        What it declares.
    rule : type
        Its class, for the message.

    Raises
    ------
    ConfigError
        If there are more or fewer values than declared, or one is not a finite number.
    """
    declared = {field.key for field in metrics}
    if not isinstance(measured, Mapping) or set(measured) != declared:
        found = sorted(measured) if isinstance(measured, Mapping) else measured
        raise ConfigError(
            f"The rule {rule.__name__} measures {found}, but its metrics declare "
            f"{sorted(declared)}. Return exactly the declared keys from measured()."
        )
    return {key: _number(key, value, rule) for key, value in measured.items()}


def _number(key: str, value: object, rule: type) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise ConfigError(
            f"The rule {rule.__name__} measures {key} = {value!r}. Return a finite number."
        )
    return number


def declared_in(summary: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Return the metrics that a summary describes: none in that of an older version.

    Raises
    ------
    ConfigError
        If a description is not one that `Metric.description` returns.
    """
    try:
        return declare(Metric(**described) for described in summary.get(DECLARED_KEY) or ())
    except (AttributeError, TypeError) as error:
        raise ConfigError(
            f"{DECLARED_KEY} = {summary[DECLARED_KEY]!r} does not describe metrics ({error}). Use "
            "a summary.json as fedsplit has written it."
        ) from None


def _is_served(key: str) -> bool:
    """Return whether two numbers would have one name at /metrics, which then cannot be read."""
    return key == "rounds" or key.startswith("channel_") or key.removesuffix("_total") in FIELDS


def _faults(metric: Metric) -> Iterator[str]:
    """Yield what is wrong; what follows a fault may rely on that it is not there."""
    for name, value in asdict(metric).items():
        if not isinstance(value, str):
            yield f"its {name} must be text, not {value!r}"
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", metric.key):
        yield "its key must be lower_snake_case, such as 'smashed_norm'"
    if metric.key in _RESERVED:
        yield "its key is that of a built-in field; choose another"
    if _is_served(metric.key):
        yield "its key is that of a number that sinks.prometheus serves itself; choose another"
    for name, text, longest in (
        ("label", metric.label, LONGEST_LABEL),
        ("unit", metric.unit, LONGEST_UNIT),
    ):
        if len(text) > longest or not text.isprintable() or text != text.strip():
            yield (
                f"its {name} {text!r} must be printable, without spaces at its ends, and at most "
                f"{longest} characters long"
            )
    if not metric.label:
        yield "it needs a label for tables, such as 'norm of the smashed data'"
    for name, known in (("over_clients", OverClients), ("over_rounds", OverRounds)):
        if getattr(metric, name) not in get_args(known):
            yield (
                f"{name} = {getattr(metric, name)!r} is unknown; use one of "
                f"{', '.join(map(repr, get_args(known)))}"
            )
