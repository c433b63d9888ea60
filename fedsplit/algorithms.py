"""From the config key `strategy` to its class, in `strategies` or in the user's code."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import isabstract
from pathlib import Path

import strategies
from fedsplit.errors import ConfigError
from fedsplit.fields import declare
from fedsplit.references import is_reference, leads_to, load_class, reference_to
from fedsplit.split.client_rules import ClientRule, SplitClient
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.in_turn import InTurn
from fedsplit.split.rules import UpdateRule


def _check_ours(found: str | None, ours: Path) -> None:
    """Refuse another package called `strategies`, which hides fedsplit's."""
    if found is None or Path(found).resolve().parents[1] != ours.resolve():
        raise ConfigError(
            f"The package 'strategies' of fedsplit is hidden by another one of that name, in "
            f"'{found or 'a folder without __init__.py'}'. Rename that package or folder, or "
            "remove its parent folder from PYTHONPATH and the current directory from Python's path."
        )


_check_ours(strategies.__file__, Path(__file__).parents[1])

from strategies.base import FederatedStrategy  # noqa: E402 - after the check


def strategy_class(name: str) -> type[FederatedStrategy]:
    """Return the class of a strategy.

    Parameters
    ----------
    name : str
        The value of the config key `strategy`: a built-in name, or ``package.module:name``.

    Raises
    ------
    ConfigError
        If there is no such strategy, or its two rules do not match.
    """
    if not is_reference(name):
        return strategies.STRATEGIES[name]
    found = load_class(name, key="strategy", kind=FederatedStrategy)
    for faults in (_faults_of_halves, _faults_of_rules, _faults_of_strategy):
        for fault in faults(found):
            raise ConfigError(f"strategy = '{name}' has {fault}.")
    declare(found.metrics())
    return found


def _faults_of_halves(found: type[FederatedStrategy]) -> Iterator[str]:
    """Yield what is wrong with the classes of the two rules."""
    for half, kind in (("client_rule", ClientRule), ("update_rule", UpdateRule)):
        given = getattr(found, half)
        optional = half == "update_rule" and given is None
        if not optional and not (isinstance(given, type) and issubclass(given, kind)):
            yield (
                f"{half} = {given!r}, which is not a class derived from "
                f"{kind.__module__}.{kind.__qualname__}"
            )
    rule, update = found.client_rule, found.update_rule
    if rule.splits != (update is not None):
        yield (
            f"client_rule = {rule.__name__} and update_rule = {getattr(update, '__name__', None)}. "
            "A client rule that splits the model needs an update rule, and any other client rule "
            "needs update_rule = None"
        )
    if rule.splits != issubclass(rule, SplitClient):
        yield (
            f"client_rule = {rule.__name__} with splits = {rule.splits}. Derive it from "
            "SplitClient if it splits the model, and only then"
        )
    if not leads_to(rule):
        yield (
            f"client_rule = {reference_to(rule)}, but that name does not lead to this class. "
            "Clients find their rule by its name: define it at the top level of a module. If it "
            "was defined again, define or reload the strategy after it"
        )


def _faults_of_rules(found: type[FederatedStrategy]) -> Iterator[str]:
    """Yield what is wrong with a rule."""
    for rule in (found.client_rule, found.update_rule):
        if rule is None:
            continue
        if isabstract(rule):
            missing = ", ".join(sorted(rule.__abstractmethods__))
            yield f"the rule {rule.__name__}, which does not define {missing}"
        metrics: object = rule.metrics
        if not isinstance(metrics, tuple | list):
            yield (
                f"the rule {rule.__name__} with metrics = {metrics!r}. Make it a tuple: "
                "(Metric(...),)"
            )
    often: object = found.client_rule.steps_per_batch
    if type(often) is not int or often < 1:
        yield (
            f"the client rule {found.client_rule.__name__} with steps_per_batch = {often!r}. Set "
            "it to how often the rule sends each batch in training: a whole number from 1"
        )
    declare(found.client_rule.metrics)
    for metric in found.client_rule.metrics:
        if metric.over_clients == "none":
            yield (
                f"the client rule {found.client_rule.__name__} with the metric '{metric.key}' of "
                "over_clients = 'none'. Say how the clients' values are combined: 'mean', 'sum' or "
                "'max'"
            )


def _faults_of_strategy(found: type[FederatedStrategy]) -> Iterator[str]:
    """Yield what would be ignored, or run otherwise than the class says."""
    rule, update = found.client_rule, found.update_rule
    own_round = found.configure_train is not FederatedStrategy.configure_train
    own_aggregation = found.aggregate_train is not FederatedStrategy.aggregate_train
    if not found.aggregates and not own_aggregation:
        yield (
            "aggregates = False, but aggregates in its aggregate_train. Override that method, or "
            "leave aggregates = True"
        )
    if rule.keeps_weights and not own_aggregation:
        yield (
            f"client_rule = {rule.__name__} with keeps_weights = True, but sends and averages "
            "weights. Derive it from strategies.sflv3.SFLV3"
        )
    if update is None:
        return
    if found.pooled:
        yield "pooled = True, which has no effect with an update rule. Set update_rule = None"
    if issubclass(update, InTurn | Concatenated) and not (found.synchronous or own_round):
        yield (
            f"update_rule = {update.__name__}, whose participants wait for each other in every "
            "step. Set synchronous = True"
        )
    for key in {metric.key for metric in rule.metrics} & {metric.key for metric in update.metrics}:
        yield f"the metric '{key}' in both its rules, of which one would be lost. Rename one"
