"""How the values of a field add up: over the participants of a round, and over rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedsplit.fields.field import BuiltIn, Field


def combine(
    field: Field, values: Mapping[int, float | None], weights: Mapping[int, int]
) -> float | None:
    """Return a round's value of a field, from its participants' values.

    Values are added up in the order of partition ids, so that the result does not depend on the
    order of arrival. One NaN makes the result NaN.

    Parameters
    ----------
    field : Field
        Its `over_clients` says how.
    values : Mapping[int, float | None]
        Partition id -> the client's value; None counts as not reported.
    weights : Mapping[int, int]
        Partition id -> n_k, the number of examples behind the value. Only ``mean`` reads them.

    Returns
    -------
    float | None
        None if no client has a value, or if the weights of a ``mean`` add up to 0.

    Raises
    ------
    ValueError
        If `over_clients` is ``none``, or a value of a ``mean`` has no weight.
    """
    if field.over_clients == "none":
        raise ValueError(f"'{field.key}' has over_clients = 'none': there is nothing to combine.")
    known = {k: value for k in sorted(values) if (value := values[k]) is not None}
    if not known:
        return None
    if any(math.isnan(value) for value in known.values()):
        return math.nan  # max() alone would keep or drop it, depending on its place
    if field.over_clients == "sum":
        return sum(known.values())
    if field.over_clients == "max":
        return max(known.values())
    if missing := sorted(set(known) - set(weights)):
        raise ValueError(f"'{field.key}' has values without weights, of the clients {missing}.")
    total = sum(weights[k] for k in known)
    return sum(weights[k] * value for k, value in known.items()) / total if total else None


def over_rounds(field: Field, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the summary's value of a field, from the rows of all rounds.

    Parameters
    ----------
    field : Field
        Its `over_rounds` says how.
    rows : Sequence[Mapping[str, Any]]
        The objects in rounds.jsonl. None counts as not reported, a list as its length.

    Returns
    -------
    float | None
        If no round has a value: the default of a built-in field, else None.

    Raises
    ------
    ValueError
        If `over_rounds` is ``none``.
    """
    if field.over_rounds == "none":
        raise ValueError(f"'{field.key}' has over_rounds = 'none': the summary does not have it.")
    found = [as_number(row.get(field.key)) for row in rows]
    known = [value for value in found if value is not None]
    if not known:
        return field.default if isinstance(field, BuiltIn) else None
    if field.over_rounds == "last":
        return known[-1]
    total = sum(known)
    return total / len(known) if field.over_rounds == "mean" else total


def as_number(value: Any) -> float | None:  # noqa: ANN401 - whatever JSON holds
    """Return a value of a row as a number: of a list, such as failed clients, its length."""
    return len(value) if isinstance(value, list) else value
