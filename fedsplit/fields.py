"""Stub until the table of result fields is merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    key: str
    label: str
    unit: str = ""
    over_clients: str = "mean"
    over_rounds: str = "last"


def combine(field: Field, values: Mapping[int, float], weights: Mapping[int, int]) -> float:
    total = sum(weights.values())
    return sum(values[k] * weights[k] for k in sorted(values)) / total
