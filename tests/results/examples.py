"""Rows and summaries for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsplit.config import Config
from fedsplit.fields import BYTE_KEYS, ROW_KEYS, Metric
from fedsplit.results.saved import Saved
from fedsplit.results.summary import summarise

NORM = Metric("smashed_norm", "norm of the smashed data")
HOSTILE = Metric("hostile", "<b>$a_$|:warning: [red]", "B", over_clients="sum", over_rounds="sum")
PER_ROUND = Metric("per_round", "seen in rounds only", over_rounds="none")
METRICS = (NORM, HOSTILE, PER_ROUND)
"""Declared metrics; one has a label that would be markup in HTML, Markdown, TeX and rich."""

SPLIT_FACTS: dict[str, Any] = {
    "partitioner": None,
    "pretrained": False,
    "weights_sha256": "0123456789abcdef" * 4,
    "num_clients": 10,
    "num_train_examples": 5_400,
    "num_validation_examples": 600,
    "num_test_examples": 1_000,
    "engine": "inprocess",
    "cut_layer": 1,
    "client_parameters": 4_352,
    "server_parameters": 205_648,
    "client_trainable_parameters": 4_352,
    "server_trainable_parameters": 778,
    "client_flops_per_sample": 200_704,
    "server_flops_per_sample": 19_876_543,
    "client_memory_bytes": 170_000,
    "server_memory_bytes": 135_000_000,
    "started_at": "2026-03-01T12:00:00+01:00",
    "device": "cpu",
    "cpu": "Example CPU, 2 cores",
    "commit": "abcdef0123456789abcdef0123456789abcdef01",
    "code_sha256": None,
}
UNSPLIT_FACTS = SPLIT_FACTS | {
    "cut_layer": None,
    "server_parameters": 0,
    "client_trainable_parameters": 210_000,
    "server_trainable_parameters": 0,
    "server_flops_per_sample": 0,
    "server_memory_bytes": 0,
}


def a_row(number: int, **values: object) -> dict[str, Any]:
    """Return round `number`'s row; its accuracy is highest in round 4."""
    row: dict[str, Any] = dict.fromkeys(ROW_KEYS)
    row |= dict.fromkeys(BYTE_KEYS, 1_000_000)
    row |= {
        "round": number,
        "failed_clients": [],
        "num_participants": 10,
        "num_examples": 500,
        "train_loss": 2.0 / number,
        "test_loss": 2.5 / number,
        "test_accuracy": 0.7 - 0.01 * abs(number - 4) / (1 + abs(number - 4)),
        "train_seconds": 2.0,
        "round_seconds": 3.0,
    }
    return row | values


def a_summary(
    rows: list[dict[str, Any]],
    facts: Mapping[str, Any] = SPLIT_FACTS,
    *,
    metrics: Sequence[Metric] = (),
    **config: object,
) -> dict[str, Any]:
    return summarise(
        rows,
        Config.load({"num-server-rounds": max(1, len(rows)), **config}),
        facts=facts,
        initial={"test_loss": 2.3, "test_accuracy": 0.1},
        wall_seconds=12.0,
        run_directory=Path("/runs/example"),
        metrics=metrics,
    )


def a_start(facts: Mapping[str, Any], metrics: Sequence[Metric] = ()) -> dict[str, Any]:
    """Return the state of the recorder whose summary is `a_summary`, before the first round."""
    initial = {"test_loss": 2.3, "test_accuracy": 0.1}
    return Saved([], initial, facts, 1.5, tuple(metrics)).to_json()
