"""Python objects that `simulate` is given: in the config of their run they are ``object:Name``.

They stay in the process that made them: neither a file nor a message can carry them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fedsplit.errors import ConfigError

_PREFIX = "object:"
_REMEDIES = {
    "data.name": ("data", "a function that returns its splits"),
    "model.name": ("model", "a function that makes it"),
    "strategy": ("strategy", "the class"),
    "aggregation.name": ("aggregator", "its class"),
}
"""Config key -> the argument of `simulate`, and what a module can hold instead of the object."""


@dataclass(frozen=True, eq=False)
class Given:
    """One object, under the name that a config has for it. Equal to itself only.

    Attributes
    ----------
    key : str
        The config key: ``data.name``, ``model.name``, ``strategy`` or ``aggregation.name``.
    name : str
        ``object:Name``.
    value : object
        The object.
    """

    key: str
    name: str
    value: object


_of_run: dict[str, Given] = {}
"""Key -> object of the run that is going on: runs of one process take turns."""


def is_object(name: str) -> bool:
    """Return whether a name stands for an object that `simulate` is given."""
    return name.startswith(_PREFIX)


def object_name(kind: type) -> str:
    """Return the name for an object of a class: it tells readers what it was, and no more."""
    return _PREFIX + re.sub(r"\W", "_", kind.__name__, flags=re.ASCII)


@contextmanager
def holding(objects: Sequence[Given]) -> Iterator[None]:
    """Let configs name these objects until the block ends, and no others.

    A block within a block, as of a callback that makes a run, hides the objects of the outer one.
    """
    before = dict(_of_run)
    _of_run.clear()
    _of_run.update({given.key: given for given in objects})
    try:
        yield
    finally:
        _of_run.clear()
        _of_run.update(before)


def arguments_of(values: Mapping[str, object]) -> dict[str, str]:
    """Return the arguments of `simulate` for which a config, by its dotted keys, has objects.

    Returns
    -------
    dict[str, str]
        Argument -> the name of the object.
    """
    found = ((argument, str(values.get(key, ""))) for key, (argument, _) in _REMEDIES.items())
    return {argument: name.removeprefix(_PREFIX) for argument, name in found if is_object(name)}


def held_arguments() -> tuple[str, ...]:
    """Return the arguments of `simulate` whose objects the run of this process has."""
    return tuple(_REMEDIES[key][0] for key in _of_run)


def given_object(name: str, *, key: str) -> Given:
    """Return the object that a config key names.

    Raises
    ------
    ConfigError
        If the run that is going on in this process was not given it.
    """
    given = _of_run.get(key)
    if given is not None and given.name == name:
        return given
    argument, instead = _REMEDIES.get(key, ("data, model, strategy or aggregator", "the code"))
    raise ConfigError(
        f"{key} = '{name}' stands for an object that was given to simulate(). Objects stay in the "
        f"process that made them. Give it again: simulate(..., {argument}=...). For Flower, the "
        f"command line or a comparison, put {instead} into a module, and set {key} to "
        "package.module:name (docs/extending.md)."
    )
