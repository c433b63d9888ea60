from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsplit.errors import ConfigError
from fedsplit.fields import (
    DECLARED_KEY,
    FIELDS,
    Field,
    Metric,
    checked_values,
    declare,
    declared_in,
)

NORM = Metric("smashed_norm", "norm of the smashed data")
SENT = Metric("kept_tokens", "kept tokens", "tokens", over_clients="sum", over_rounds="sum")


def test_defaults_are_a_weighted_mean_and_the_last_round() -> None:
    """Break it: give `Field` the defaults of a built-in field."""
    assert (NORM.unit, NORM.over_clients, NORM.over_rounds) == ("", "mean", "last")


@pytest.mark.parametrize("key", ["", "Norm", "smashed norm", "_norm", "norm_", "a__b", "2nd", "né"])
def test_other_keys_than_lower_snake_case_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"its key must be lower_snake_case, such as 'smashed_"):
        Metric(key, "norm")


@pytest.mark.parametrize(
    "key",
    ["cut_uplink_bytes", "train_loss", "strategy", "run_directory", DECLARED_KEY, "label", "loss"],
)
def test_keys_of_built_in_fields_are_refused(key: str) -> None:
    """Break it: reserve the keys of rounds only."""
    with pytest.raises(ConfigError, match=rf"'{key}' cannot be declared: its key is that of a"):
        Metric(key, "norm")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"label": ""}, "it needs a label"),
        ({"label": "two\nlines"}, r"its label 'two\\nlines' must be printable"),
        ({"label": " norm"}, "without spaces at its ends"),
        ({"label": "x" * 61}, "at most 60 characters"),
        ({"unit": "\x1b[31m"}, "its unit .* must be printable"),
        ({"unit": "x" * 17}, "at most 16 characters"),
        ({"over_clients": "median"}, "over_clients = 'median' is unknown; use one of 'sum', 'mean"),
        ({"over_rounds": "max"}, "over_rounds = 'max' is unknown; use one of 'sum', 'last'"),
    ],
)
def test_what_cannot_be_shown_or_aggregated_is_refused(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        replace(NORM, **values)


def test_values_of_other_types_are_refused() -> None:
    """Break it: let re.fullmatch meet a number."""
    with pytest.raises(ConfigError, match="its key must be text, not 3"):
        Metric(3, "norm")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="its label must be text, not None"):
        Metric("norm", None)  # type: ignore[arg-type]


def test_a_description_is_json_and_makes_the_metric_again() -> None:
    assert Metric(**json.loads(json.dumps(SENT.description()))) == SENT


def test_rules_may_declare_the_same_metric_and_a_plain_field() -> None:
    plain = Field("smashed_norm", "norm of the smashed data")
    assert declare([NORM, SENT, plain]) == (NORM, SENT)


def test_a_plain_field_is_checked_too() -> None:
    """Break it: keep fields as they are in `declare`."""
    with pytest.raises(ConfigError, match="its key is that of a built-in field"):
        declare([FIELDS["train_loss"]])


def test_two_metrics_of_one_key_are_refused() -> None:
    other = replace(NORM, over_rounds="mean")
    with pytest.raises(ConfigError, match=r"'smashed_norm' is declared twice .*rename one"):
        declare([NORM, other])


def test_a_summary_of_an_older_version_declares_nothing() -> None:
    assert declared_in({"strategy": "sflv1"}) == ()
    assert declared_in({DECLARED_KEY: [SENT.description()]}) == (SENT,)


@pytest.mark.parametrize("described", [[{"key": "norm"}], [3], 3, [{"key": "a", "colour": "red"}]])
def test_a_summary_that_describes_no_metrics_is_refused(described: object) -> None:
    with pytest.raises(ConfigError, match=r"declared_metrics = .* does not describe metrics"):
        declared_in({DECLARED_KEY: described})


MEASURED = [Metric("norm", "norm"), Metric("hits", "hits")]


def test_measured_values_become_numbers() -> None:
    found = checked_values({"norm": torch.tensor(0.5), "hits": 3}, MEASURED, rule=Metric)
    assert found == {"norm": 0.5, "hits": 3.0}


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (None, "The rule Metric measures None, but its metrics declare"),
        ({}, r"measures \[\], but its metrics declare \['hits', 'norm'\]"),
        ({"norm": 1.0, "hits": 1, "cut_uplink_bytes": 1}, "measures .*'cut_uplink_bytes'"),
        ({"norm": math.nan, "hits": 1}, "measures norm = nan. Return a finite number"),
        ({"norm": "1", "hits": 1}, "measures norm = '1'"),
        ({"norm": None, "hits": 1}, "measures norm = None"),
        ({"norm": [1.0], "hits": 1}, r"measures norm = \[1.0\]"),
    ],
)
def test_measured_values_other_than_declared_are_refused(measured: object, words: str) -> None:
    """Break it: note what an update rule measures unseen; it may be a count of bytes."""
    with pytest.raises(ConfigError, match=words):
        checked_values(measured, MEASURED, rule=Metric)
