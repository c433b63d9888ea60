"""JSON that every parser reads: no NaN or Infinity, plain numbers only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Integral, Real


def finite(value: object) -> object:
    """Return the value with every number that is not finite replaced by None.

    NumPy's scalars become Python's, tuples become lists, keys become strings; what JSON cannot
    hold is left as it is, for `dumps` to refuse.
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
    """Return the JSON text of a value, with its keys in their own order.

    Raises
    ------
    TypeError
        If it holds something that JSON has no form for.
    """
    return json.dumps(finite(value), indent=indent, allow_nan=False, ensure_ascii=False)
