"""Turn pydantic's findings about a config into one message a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_TYPES = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be a text in quotes",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "model_type": "is a section: set keys in it, such as {key}.name",
}


def describe(error: ValidationError, source: str, valid_keys: Sequence[str]) -> str:
    """Return one line for each error: key, value, what is wrong, what to do."""
    lines = [_line(details, valid_keys) for details in error.errors()]
    count = "1 error" if len(lines) == 1 else f"{len(lines)} errors"
    return f"{source} has {count}:\n" + "\n".join(f"  {line}" for line in lines)


def _line(details: ErrorDetails, valid_keys: Sequence[str]) -> str:
    key = ".".join(str(part) for part in details["loc"])
    value = details["input"]
    shown = f"{key} = {value!r}" if not isinstance(value, dict) else key
    if details["type"] == "extra_forbidden":
        return f"{shown}: unknown key; {_nearest(key, valid_keys)}"
    if details["type"] in _TYPES:
        return f"{shown}: {_TYPES[details['type']].format(key=key)}"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if details["type"] == "value_error":
        return f"{shown}: {message}"
    return f"{shown}: must be {message}"


def _nearest(key: str, valid_keys: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, valid_keys, n=1, cutoff=0.5)
    if not close:
        last = {valid.rpartition(".")[2]: valid for valid in valid_keys}
        close = [last[name] for name in difflib.get_close_matches(key, list(last), n=1)]
    return f"did you mean '{close[0]}'?" if close else f"valid keys: {', '.join(valid_keys)}"
