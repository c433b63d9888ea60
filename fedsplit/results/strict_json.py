"""JSON that every parser reads: no NaN or Infinity, plain numbers only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Integral, Real


def finite(value: object) -> object:
    """Return the value with every number that is not finite replaced by None.

    Scalars of NumPy become those of Python, tuples become lists, keys become strings. Other values
    are left as they are: `dumps` refuses what JSON cannot hold.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def dumps(value: object, *, indent: int | None = None) -> str:
    """Return the JSON text of a value, without sorting its keys.

    Raises
    ------
    TypeError
        If it contains a value that JSON cannot hold.
    """
    return json.dumps(finite(value), indent=indent, allow_nan=False, ensure_ascii=False)
