from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import pytest

from fedsplit.fields import FIELDS, Metric, combine, over_rounds

WEIGHTS = {0: 10, 1: 30, 2: 60}


def over_clients(how: Literal["sum", "mean", "max", "none"]) -> Metric:
    return Metric("norm", "norm", over_clients=how)


def rounds(how: Literal["sum", "last", "mean", "none"], *values: float | None) -> float | None:
    return over_rounds(Metric("norm", "norm", over_rounds=how), [{"norm": v} for v in values])


@pytest.mark.parametrize(("how", "expected"), [("sum", 6.0), ("mean", 2.5), ("max", 3.0)])
def test_values_of_clients_are_combined(how: Any, expected: float) -> None:  # noqa: ANN401
    """Break it: leave the weights out of the mean, which is then 2.0."""
    assert combine(over_clients(how), {0: 1.0, 1: 2.0, 2: 3.0}, WEIGHTS) == expected


def test_the_order_of_arrival_does_not_change_a_bit() -> None:
    """Break it: add up in the order of the mapping."""
    values = {0: 1e16, 1: 1.0, 2: -1e16, 3: 3.0}
    weights = dict.fromkeys(values, 1)
    for how in ("sum", "mean"):
        metric = over_clients(how)
        orders = itertools.permutations(values.items())
        assert len({combine(metric, dict(order), weights) for order in orders}) == 1


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_clients_without_a_value_are_left_out(how: Any) -> None:  # noqa: ANN401
    """Break it: count None as 0, or its weight."""
    assert combine(over_clients(how), {0: None, 1: 2.0}, WEIGHTS) == 2.0
    assert combine(over_clients(how), {0: None}, WEIGHTS) is None
    assert combine(over_clients(how), {}, {}) is None


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_one_nan_is_seen_wherever_it_stands(how: Any) -> None:  # noqa: ANN401
    """Break it: use max() alone, which keeps 1.0 if it comes first."""
    for values in ({0: math.nan, 1: 1.0}, {0: 1.0, 1: math.nan}):
        found = combine(over_clients(how), values, WEIGHTS)
        assert found is not None
        assert math.isnan(found)


def test_a_mean_needs_weights() -> None:
    metric = over_clients("mean")
    assert combine(metric, {0: 1.0}, {0: 0}) is None
    with pytest.raises(ValueError, match=r"'norm' has values without weights, of the clients \[7"):
        combine(metric, {0: 1.0, 7: 2.0}, {0: 1})
    assert combine(over_clients("sum"), {7: 2.0}, {}) == 2.0


def test_what_clients_do_not_report_is_not_combined() -> None:
    with pytest.raises(ValueError, match="over_clients = 'none'"):
        combine(over_clients("none"), {0: 1.0}, WEIGHTS)


def test_values_of_rounds_make_the_summarys() -> None:
    """Break it: divide by the number of all rounds, or take the last round whatever it has."""
    assert rounds("sum", 1.0, None, 4.0) == 5.0
    assert rounds("mean", 1.0, None, 4.0) == 2.5
    assert rounds("last", 1.0, 4.0, None) == 4.0
    with pytest.raises(ValueError, match="over_rounds = 'none'"):
        rounds("none", 1.0)


@pytest.mark.parametrize("how", ["sum", "mean", "last"])
def test_without_any_value_there_is_none(how: Any) -> None:  # noqa: ANN401
    assert rounds(how) is None
    assert rounds(how, None, None) is None


def test_built_in_sums_begin_at_zero_but_for_times() -> None:
    """Break it: give times the default 0: a run without a channel then took no time on it."""
    rows: list[dict[str, Any]] = [
        {"failed_clients": [], "cut_uplink_bytes": None, "communication_seconds": None}
    ]
    assert over_rounds(FIELDS["cut_uplink_bytes"], rows) == 0
    assert over_rounds(FIELDS["communication_seconds"], rows) is None
    assert over_rounds(FIELDS["failed_clients"], [{"failed_clients": [3, 7]}, *rows]) == 2
