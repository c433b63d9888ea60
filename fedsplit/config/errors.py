"""Turn pydantic's errors about a config into one message that a user can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_TYPES = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be a text in quotes",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "string_too_short": "must not be empty",
    "string_unicode": "must be text in UTF-8",
    "list_type": "must be a list",
    "dict_type": "must be a table of keys",
    "missing": "must be set",
}
_LONGEST_VALUE = 300


def describe(
    error: ValidationError,
    source: str,
    valid_keys: Sequence[str],
    overrides: Collection[str] = (),
) -> str:
    """Return one line for each error: key, value, what is wrong, what to do.

    Parameters
    ----------
    error : ValidationError
        The errors that pydantic found.
    source : str
        Where the values come from.
    valid_keys : Sequence[str]
        All of them, dotted.
    overrides : Collection[str]
        Keys whose values override those of the source.
    """
    found = error.errors()
    overriding = [details for details in found if _key(details) in overrides]
    if not overriding:
        head = f"{source} has"
    elif len(overriding) == len(found):
        head = f"The overrides of {source} have"
    else:
        head = f"{source} and its overrides have"
    count = "1 error" if len(found) == 1 else f"{len(found)} errors"
    return "\n  ".join([f"{head} {count}:", *findings(error, valid_keys)])


def findings(error: ValidationError, valid_keys: Sequence[str]) -> list[str]:
    """Return one line for each error, without a line that names their source."""
    return [_line(details, valid_keys) for details in error.errors()]


def _key(details: ErrorDetails) -> str:
    return ".".join(str(part) for part in details["loc"])


def _line(details: ErrorDetails, valid_keys: Sequence[str]) -> str:
    key, value = _key(details), details["input"]
    shown = key if isinstance(value, dict) else f"{key} = {_shortened(repr(value))}"
    if details["type"] == "extra_forbidden":
        return f"{shown}: unknown key; {_nearest(key, valid_keys)}"
    if details["type"] == "string_too_long":
        return f"{shown}: must have at most {details['ctx']['max_length']} characters"
    if details["type"] in _TYPES:
        return f"{shown}: {_TYPES[details['type']]}"
    if details["type"] == "model_type":
        examples = [valid for valid in valid_keys if valid.startswith(f"{key}.")]
        such_as = f": set keys in it, such as {examples[0]}" if examples else ""
        return f"{shown}: is a section{such_as}"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if details["type"] != "value_error":
        return f"{shown}: must be {message}"
    # Validators of a section name their keys themselves.
    return message if isinstance(value, dict) else f"{shown}: {message}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} ..."


def _nearest(key: str, valid_keys: Sequence[str]) -> str:
    # A key that shares all of its words comes first: 'rounds' does not mean 'round-timeout'.
    with_its_words = [valid for valid in valid_keys if _words(key) <= _words(valid)]
    close = difflib.get_close_matches(key, with_its_words, n=1, cutoff=0.0)
    close = close or difflib.get_close_matches(key, valid_keys, n=1, cutoff=0.5)
    if not close:
        last = {valid.rpartition(".")[2]: valid for valid in valid_keys}
        close = [last[name] for name in difflib.get_close_matches(key, list(last), n=1)]
    return f"did you mean '{close[0]}'?" if close else f"valid keys: {', '.join(valid_keys)}"


def _words(key: str) -> set[str]:
    return set(re.split(r"[._-]", key))
