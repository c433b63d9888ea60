"""The user's own code, named in a config as ``package.module:name``."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import traceback
from typing import TypeVar

from fedsplit.errors import ConfigError, FedSplitError
from fedsplit.objects import given_object, is_object

Made = TypeVar("Made")

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(name: str) -> bool:
    """Return whether a name has the form ``package.module:name``."""
    return _REFERENCE.fullmatch(name) is not None


def load_reference(name: str, *, key: str) -> object:
    """Import and return the object that a config key names, or that `simulate` was given for it.

    Only Python's own module cache is used: a function that a notebook has redefined, or a module
    that was reloaded, is found in its current form.

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
    if is_object(name):
        return given_object(name, key=key).value
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except FedSplitError:  # such as a metric that the module declares wrongly; it says what to do
        raise
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
        if module != "__main__":
            remedy = _remedy(error, module, attribute)
        else:
            remedy = (
                "A notebook's or script's own code is known in its process only: use simulate() "
                f"there, or move it into a module and set {key} to package.module:name."
            )
        raise ConfigError(
            f"{key} = '{name}' cannot be imported ({type(error).__name__}: {error}). {remedy}"
        ) from error


def _remedy(error: BaseException, module: str, attribute: str) -> str:
    """Return what to do about a module that cannot be imported, or lacks a name."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"Correct {error.filename}, line {error.lineno}."
    found = sys.modules.get(module)
    if isinstance(error, AttributeError) and found is not None:
        own = [each for each, value in vars(found).items() if _is_defined_in(value, module)]
        close = difflib.get_close_matches(attribute, own, n=1)
        meant = f" Did you mean '{close[0]}'?" if close else ""
        where = getattr(found, "__file__", module)
        few = ", ".join(own[:8]) + (", ..." if len(own) > 8 else "")
        return f"'{where}' defines {few or 'nothing'}.{meant}"
    if isinstance(error, ModuleNotFoundError):
        return (
            "Install its package where the server and every client run, or add its folder to "
            "PYTHONPATH."
        )
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"It was raised in {place.filename}, line {place.lineno}."


def _is_defined_in(value: object, module: str) -> bool:
    return getattr(value, "__module__", None) == module and callable(value)


def load_instance(name: str, *, key: str, kind: type[Made]) -> Made:
    """Return the object of a class that a config key names.

    Parameters
    ----------
    name : str
        ``package.module:name`` of such an object, or of a class or function that makes one without
        arguments.
    key : str
        The config key, for the message.
    kind : type[Made]
        What it must be.

    Raises
    ------
    ConfigError
        If it cannot be imported or made, or is something else.
    """
    found = load_reference(name, key=key)
    if callable(found) and not isinstance(found, kind):
        try:
            found = found()
        except Exception as error:  # the user's code may raise anything
            raise ConfigError(
                f"{key} = '{name}' cannot be made without arguments "
                f"({type(error).__name__}: {error}). Name a class or function that takes none."
            ) from error
    if not isinstance(found, kind):
        raise ConfigError(
            f"{key} = '{name}' is a {type(found).__name__}. Name a class derived from "
            f"{kind.__module__}.{kind.__qualname__}."
        )
    return found


def load_class(name: str, *, key: str, kind: type[Made]) -> type[Made]:
    """Return the class that a name refers to, which must derive from `kind`.

    Raises
    ------
    ConfigError
        If it cannot be imported, or is something else.
    """
    found = load_reference(name, key=key)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigError(
            f"{key} = '{name}' is not a class derived from {kind.__module__}.{kind.__qualname__}."
        )
    return found


def reference_to(item: type) -> str:
    """Return the name by which `load_class` finds a class of a module."""
    return f"{item.__module__}:{item.__qualname__}"


def leads_to(item: type) -> bool:
    """Return whether `reference_to` leads to this class, and not to nothing or to another one."""
    try:
        return load_reference(reference_to(item), key="strategy") is item
    except FedSplitError:
        return False
