"""JSON from others: bounded in depth, and without a key that is there twice."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 32


def loads(text: str, *, max_depth: int = MAX_DEPTH) -> Any:  # noqa: ANN401 - any JSON value
    """Return what a JSON text says.

    Of a key that is there twice, one parser takes the first value and another the last: what was
    checked need not be what is used.

    Parameters
    ----------
    text : str
        The text; its length is for the caller to bound.
    max_depth : int
        Arrays and objects within each other.

    Raises
    ------
    ValueError
        If it is no JSON, is nested deeper, or has a key twice.
    """
    too_deep = f"it is nested more than {max_depth} deep"
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [value]
    for _ in range(max_depth):
        level = [item for each in level for item in _items(each) if isinstance(item, dict | list)]
        if not level:
            return value
    raise ValueError(too_deep)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.100} is there twice")
    return found


def _items(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
