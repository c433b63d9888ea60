"""The object in summary.json, from the rows of rounds.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedsplit.config import Config

BYTE_KEYS = (
    "cut_uplink_bytes",
    "cut_downlink_bytes",
    "evaluate_uplink_bytes",
    "evaluate_downlink_bytes",
    "sync_uplink_bytes",
    "sync_downlink_bytes",
)
"""What crossed, by purpose and direction: exact serialized lengths."""

COMMUNICATION_KEYS = ("simulated_communication_seconds", "communication_seconds")
"""How long that would take on the profile's links, and took on the way (docs/network.md)."""


def summarise(
    rows: Sequence[Mapping[str, Any]],
    config: Config,
    *,
    facts: Mapping[str, Any],
    initial: Mapping[str, float | None],
    wall_seconds: float,
    run_directory: Path,
) -> dict[str, Any]:
    """Return a run's summary: what it was, how well it learnt, what it cost.

    Parameters
    ----------
    rows : Sequence[Mapping[str, Any]]
        One for each finished round.
    config : Config
        The run's configuration.
    facts : Mapping[str, Any]
        What `Recorder.start` was told.
    initial : Mapping[str, float | None]
        ``test_loss`` and ``test_accuracy`` before the first round.
    wall_seconds : float
        From the start of the run to now.
    run_directory : Path
        Absolute.
    """
    last = rows[-1] if rows else {}
    best = max(
        (row for row in rows if row["test_accuracy"] is not None),
        key=lambda row: row["test_accuracy"],
        default={},
    )
    return {
        "strategy": config.strategy,
        "model": config.model.name,
        "dataset": config.data.name,
        "partitioner": config.data.partitioner,
        "num_rounds": config.num_server_rounds,
        "finished_rounds": len(rows),
        "seed": config.seed,
        **facts,
        "topology": None if facts["cut_layer"] is None else config.split.topology,
        "initial_accuracy": initial["test_accuracy"],
        "initial_loss": initial["test_loss"],
        "final_accuracy": last.get("test_accuracy"),
        "final_loss": last.get("test_loss"),
        "best_accuracy": best.get("test_accuracy"),
        "best_round": best.get("round"),
        **{key: _total(rows, key) for key in BYTE_KEYS},
        "network_profile": None if config.network.profile == "none" else config.network.profile,
        **{key: _total_if_any(rows, key) for key in COMMUNICATION_KEYS},
        "failed_clients": sum(len(row["failed_clients"]) for row in rows),
        "wall_seconds": wall_seconds,
        "train_samples_per_second": _samples_per_second(rows),
        "seconds_per_client_round": _seconds_per_client_round(rows),
        "run_directory": str(run_directory),
        "fedsplit_version": _version("fedsplit"),
        "torch_version": _version("torch"),
        "flwr_version": _version("flwr"),
    }


def how_split(summary: Mapping[str, Any]) -> str:
    """Say where the model is cut, in a few words."""
    if summary["cut_layer"] is None:
        return "unsplit"
    u_shaped = ", u-shaped" if summary["topology"] == "u-shaped" else ""
    return f"cut {summary['cut_layer']}{u_shaped}"


def _total(rows: Sequence[Mapping[str, Any]], key: str) -> int:
    return sum(row[key] or 0 for row in rows)


def _total_if_any(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    known = [row[key] for row in rows if row[key] is not None]
    return sum(known) if known else None


def _samples_per_second(rows: Sequence[Mapping[str, Any]]) -> float | None:
    seconds = sum(row["train_seconds"] or 0.0 for row in rows)
    samples = sum(row["num_examples"] or 0 for row in rows)
    return samples / seconds if seconds else None


def _seconds_per_client_round(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the wall time of training for each participant of each round."""
    seconds = sum(row["train_seconds"] or 0.0 for row in rows)
    participants = sum(row["num_participants"] or 0 for row in rows)
    return seconds / participants if participants else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # fedsplit itself, when Flower runs it from a bundle
        return None
