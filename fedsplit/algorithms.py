"""From the config key `strategy` to its class, in `strategies` or in the user's code."""

from __future__ import annotations

from pathlib import Path

import strategies
from fedsplit.errors import ConfigError
from fedsplit.fields import declare
from fedsplit.references import is_reference, load_class, reference_to
from fedsplit.split.client_rules import ClientRule
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
    for half, kind in (("client_rule", ClientRule), ("update_rule", UpdateRule)):
        given = getattr(found, half)
        optional = half == "update_rule" and given is None
        if not optional and not (isinstance(given, type) and issubclass(given, kind)):
            raise ConfigError(
                f"strategy = '{name}' has {half} = {given!r}, which is not a class derived from "
                f"{kind.__module__}.{kind.__qualname__}."
            )
    if found.client_rule.splits != (found.update_rule is not None):
        raise ConfigError(
            f"strategy = '{name}' has client_rule = {found.client_rule.__name__} and update_rule = "
            f"{getattr(found.update_rule, '__name__', None)}. A client rule that splits the model "
            "needs an update rule, and any other client rule needs update_rule = None."
        )
    _check_halves(name, found)
    declare(found.metrics())
    return found


def _check_halves(name: str, found: type[FederatedStrategy]) -> None:
    """Refuse what would be ignored, or run otherwise than the class says."""
    rule, update = found.client_rule, found.update_rule
    own = found.aggregate_train is not FederatedStrategy.aggregate_train
    of_server = () if update is None else update.metrics
    twice = {metric.key for metric in rule.metrics} & {metric.key for metric in of_server}
    fault = ""
    if not _is_found_by_name(rule):
        fault = (
            f"client_rule = {reference_to(rule)}, but that name does not lead to this class. "
            "Clients find their rule by its name: define it at the top level of a module. If it "
            "was defined again, define or reload the strategy after it"
        )
    elif not found.aggregates and not own:
        fault = (
            "aggregates = False, but aggregates in its aggregate_train. Override that method, or "
            "leave aggregates = True"
        )
    elif rule.keeps_weights and not own:
        fault = (
            f"a client rule with keeps_weights = True, {rule.__name__}, but sends and averages "
            "weights. Derive it from strategies.sflv3.SFLV3"
        )
    elif found.pooled and update is not None:
        fault = "pooled = True, which has no effect with an update rule. Set update_rule = None"
    elif twice:
        fault = (
            f"the metric {min(twice)!r} in both its rules, of which only one could be recorded. "
            "Rename one"
        )
    if fault:
        raise ConfigError(f"strategy = '{name}' has {fault}.")


def _is_found_by_name(rule: type[ClientRule]) -> bool:
    try:
        return load_class(reference_to(rule), key="strategy", kind=ClientRule) is rule
    except ConfigError:
        return False
