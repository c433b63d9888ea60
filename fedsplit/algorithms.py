"""From the config key `strategy` to its class, in `strategies` or in the user's code."""

from __future__ import annotations

from pathlib import Path

import strategies
from fedsplit.errors import ConfigError
from fedsplit.fields import declare
from fedsplit.references import is_reference, load_class
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
    declare(found.metrics())
    return found
