from __future__ import annotations

import re
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, MetricRecord

from fedsplit.errors import RunError
from fedsplit.messages import Description, Instructions, Measurements

TOLD = Instructions(
    run="r",
    num_clients=4,
    num_labels=10,
    server_round=3,
    client_rule="fedsplit.split.client_rules:CutGradient",
    proximal_mu=0.5,
    channel_address="127.0.0.1:9",
    channel_token="t",
    answer_seconds=1.5,
)
DESCRIBED = Description(partition_id=2, class_counts=[3, 0, 5])
MEASURED = Measurements(
    num_examples=8, loss=0.5, accuracy=0.25, channel_seconds=0.125, metrics={"norm": 2.0}
)


def test_messages_survive_flowers_records() -> None:
    for message in (TOLD, DESCRIBED):
        sent = ConfigRecord(dict(message.to_record()))
        assert type(message).from_record(sent) == message
    assert Measurements.from_record(MetricRecord(dict(MEASURED.to_record())), ["norm"]) == MEASURED


@pytest.mark.parametrize("message", [TOLD, DESCRIBED], ids=lambda message: type(message).__name__)
def test_an_unknown_field_is_refused(message: Instructions | Description) -> None:
    """Break it: leave out `extra="forbid"`."""
    record = ConfigRecord({**message.to_record(), "surprise": 1})
    with pytest.raises(RunError, match=r"surprise: Extra inputs.*same version of fedsplit"):
        type(message).from_record(record)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (TOLD, "run"),
        (TOLD, "num-clients"),
        (TOLD, "num-labels"),
        (TOLD, "client-rule"),
        (DESCRIBED, "partition-id"),
        (DESCRIBED, "class-counts"),
    ],
)
def test_a_missing_field_is_refused(message: Instructions | Description, field: str) -> None:
    record = message.to_record()
    del record[field]
    with pytest.raises(RunError, match=f"A message from the {message.sender}.*{field}: Field req"):
        type(message).from_record(record)


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        (TOLD, "num-clients", "4"),
        (TOLD, "num-clients", 0),
        (TOLD, "server-round", 1.0),
        (TOLD, "server-round", True),
        (TOLD, "server-round", -1),
        (TOLD, "run", 7),
        (TOLD, "proximal-mu", float("nan")),
        (TOLD, "proximal-mu", -1.0),
        (TOLD, "answer-seconds", float("inf")),
        (DESCRIBED, "partition-id", -1),
        (DESCRIBED, "partition-id", b"2"),
        (DESCRIBED, "class-counts", []),
        (DESCRIBED, "class-counts", [1.0, 2.0]),
        (DESCRIBED, "class-counts", [1, -1]),
        (DESCRIBED, "class-counts", "111"),
    ],
)
def test_a_field_of_another_type_or_out_of_range_is_refused(
    message: Instructions | Description, field: str, value: object
) -> None:
    """Break it: leave out `strict` or `allow_inf_nan=False`, or a bound."""
    record = ConfigRecord({**message.to_record(), field: value})  # type: ignore[dict-item]
    with pytest.raises(RunError, match=field):
        type(message).from_record(record)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"norm": float("nan")}, "its metric 'norm' is nan"),
        ({"norm": [1.0]}, r"its metric 'norm' is \[1.0\]"),
        ({"surprise": 1.0}, r"its metrics are \['accuracy', .*'surprise'\]"),
        ({"num-examples": -1}, "num-examples = -1"),
        ({"num-examples": 8.0}, "num-examples = 8.0"),
        ({"channel-seconds": -0.5}, "channel-seconds = -0.5"),
        ({"channel-seconds": float("inf")}, "channel-seconds = inf"),
        ({"loss": float("nan")}, "lower learning-rate"),
        ({"accuracy": 1.5}, "an accuracy from 0 to 1"),
    ],
)
def test_measurements_that_cannot_be_true_are_refused(
    changed: dict[str, float], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        Measurements.from_record(MetricRecord({**MEASURED.to_record(), **changed}), ["norm"])


def test_a_declared_metric_must_be_there_and_no_other() -> None:
    with pytest.raises(ValueError, match="its metrics are"):
        Measurements.from_record(MEASURED.to_record())
    without = {key: value for key, value in MEASURED.to_record().items() if key != "norm"}
    with pytest.raises(ValueError, match="its metrics are"):
        Measurements.from_record(MetricRecord(without), ["norm"])


@pytest.mark.parametrize("kind", [Instructions, Description])
def test_every_field_has_a_row_in_the_protocol(kind: type[Instructions | Description]) -> None:
    """Break it: leave a row out of docs/protocol.md."""
    page = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")
    table = page.partition(f"| `{kind.__name__}`")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([a-z0-9-]+)`", table))
    assert {str(field.alias) for field in kind.model_fields.values()} - named == set()
