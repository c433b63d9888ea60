"""Code of the user's own, named in a config as ``package.module:name``."""

from __future__ import annotations

import importlib
import re

from fedsplit.errors import ConfigError

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(name: str) -> bool:
    """Return whether a name has the form ``package.module:name``."""
    return _REFERENCE.fullmatch(name) is not None


def load_reference(name: str, *, key: str) -> object:
    """Import and return the object that a config key names.

    Nothing is cached beyond Python's own modules: a function that a notebook defines again, or a
    module that is reloaded, is found as it is now.

    Parameters
    ----------
    name : str
        ``package.module:name``.
    key : str
        The config key, for the message.

    Raises
    ------
    ConfigError
        If the name has another form, its module cannot be imported, or has no such object.
    """
    if not is_reference(name):
        raise ConfigError(
            f"{key} = '{name}' does not name an object of a module. Write it as "
            "package.module:name."
        )
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigError(
            f"{key} = '{name}' cannot be imported ({type(error).__name__}: {error}). Install its "
            "package where the server and every client run, or add its folder to PYTHONPATH."
        ) from error
