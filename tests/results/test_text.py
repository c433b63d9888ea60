from __future__ import annotations

import math

import pytest

from fedsplit.results.text import fixed, megabytes, minutes, with_unit


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


def test_megabytes_are_powers_of_ten() -> None:
    assert megabytes(12_345_678) == "12.35"
    assert megabytes(None) == "-"
