from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fedsplit.results.strict_json import dumps, finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_numbers_that_are_not_finite_become_null(value: float) -> None:
    assert json.loads(dumps({"a": [1.5, value]})) == {"a": [1.5, None]}


def test_plain_values_stay_as_they_are() -> None:
    value = {"b": True, "i": 2**70, "f": 0.1, "s": "é", "n": None, "l": [1, {"x": 2}]}
    assert json.loads(dumps(value)) == value
    assert json.loads(dumps(value))["b"] is True


def test_numpy_scalars_and_keys_that_are_numbers() -> None:
    assert finite({3: np.int64(4), "t": (np.float64(0.5),)}) == {"3": 4, "t": [0.5]}


def test_values_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(TypeError):
        dumps({"a": object()})
