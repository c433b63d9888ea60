from __future__ import annotations

import math

import pytest

from fedsplit.fields import FIELDS, Metric
from fedsplit.results.text import fixed, minutes, shown, with_unit


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.12345, "0.1235"), (math.nan, "nan"), (math.inf, "inf"), (1e12, "1.0e+12")],
)
def test_fixed(value: float | None, text: str) -> None:
    assert fixed(value, 4) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_345_678, "12.3 MB"),
        (99_960_000, "100 MB"),
        (999_600, "1.00 MB"),
        (999_400, "999 kB"),
        (7 * 10**21, "7000 EB"),
    ],
)
def test_with_unit(value: int | None, text: str) -> None:
    assert with_unit(value, "B") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.2, "0:00"), (59.6, "1:00"), (125.0, "2:05"), (3725.0, "1:02:05")],
)
def test_minutes(seconds: float | None, text: str) -> None:
    assert minutes(seconds) == text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("train_loss", 2.10341, "2.1034"),
        ("test_accuracy", None, "-"),
        ("failed_clients", 2, "2"),
        ("cut_uplink_bytes", 6_300_000, "6.30 MB"),
        ("client_parameters", 4_352, "4.35 k"),
        ("server_flops_per_sample", 19_876_543, "19.9 MFLOP"),
        ("round_seconds", 80.0, "1:20 min"),
        ("seconds_per_client_round", 0.0123456, "0.01235 s"),
    ],
)
def test_built_in_fields_are_shown_with_their_units(
    key: str, value: float | None, text: str
) -> None:
    assert shown(FIELDS[key], value) == text


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("", 0.000123456, "0.0001235"),
        ("", 3, "3"),
        ("dB", -12.3456, "-12.35 dB"),
        ("s", 0.0021, "0.0021 s"),
        ("B", 6_300_000, "6.30 MB"),
        ("", None, "-"),
    ],
)
def test_declared_metrics_are_shown_with_four_digits(
    unit: str, value: float | None, text: str
) -> None:
    """Break it: show them with four decimals, or times with one."""
    assert shown(Metric("metric", "a metric", unit), value) == text
