"""Data sets that a function of the user's own returns: ``package.module:name``."""

from __future__ import annotations

from collections.abc import Mapping

import datasets

from fedsplit.errors import ConfigError, DataError
from fedsplit.references import load_reference

_WANTED = (
    "Return a datasets.DatasetDict, or a mapping from split names to datasets.Dataset, with a "
    "split called 'train'."
)


def call_function(name: str) -> dict[str, datasets.Dataset]:
    """Call the function that ``data.name`` names, and return its splits.

    Parameters
    ----------
    name : str
        ``package.module:name`` of a function that takes no arguments and returns a
        `datasets.DatasetDict`, or a mapping from split names to `datasets.Dataset`.

    Raises
    ------
    ConfigError
        If it cannot be imported, or is not a function.
    DataError
        If it raises an exception, or returns something else.
    """
    function = load_reference(name, key="data.name")
    if not callable(function):
        raise ConfigError(
            f"data.name = '{name}' is an object of the type {type(function).__name__}, not a "
            "function. Name a function that takes no arguments and returns a datasets.DatasetDict."
        )
    try:
        returned = function()
    except Exception as error:  # the user's own code may raise anything
        raise DataError(
            f"The function '{name}' (data.name) failed: {type(error).__name__}: {error}. It is "
            "called without arguments, in the server's process and in every client's."
        ) from error
    return checked_splits(returned, f"The function '{name}' (data.name)", "returned")


def checked_splits(splits: object, who: str, does: str) -> dict[str, datasets.Dataset]:
    """Return a data set's splits by name, without formats.

    Parameters
    ----------
    splits : object
        What should be a mapping from names to `datasets.Dataset`.
    who, does : str
        Whose they are, for the message: what returned or has them.

    Raises
    ------
    DataError
        If they are something else, or have a transform.
    """
    if not isinstance(splits, Mapping):
        raise DataError(f"{who} {does} {type(splits).__name__}. {_WANTED}")
    for split, rows in splits.items():
        if not isinstance(rows, datasets.Dataset):
            raise DataError(f"{who} {does} {type(rows).__name__} as the split '{split}'. {_WANTED}")
        if rows.format["type"] == "custom":
            raise DataError(
                f"{who} {does} the split '{split}' with a transform, which would not be applied. "
                "Write its result into the rows with map()."
            )
    # A format, such as "torch", would change the type of what the rows hold.
    return {str(split): rows.with_format(None) for split, rows in splits.items()}
