"""The object in summary.json, from the rows of rounds.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedsplit.config import Config
from fedsplit.fields import (
    DECLARED_KEY,
    SUMMARY_KEYS,
    TOTAL_FIELDS,
    Metric,
    over_rounds,
)
from fedsplit.names import printable
from fedsplit.results.best import best_round, is_over
from fedsplit.results.classes import NO_CLASSES
from fedsplit.results.text import counted

NOT_SCORED: Mapping[str, Any] = {"final_weights_sha256": None, **NO_CLASSES}
SCORED_DATA = ("test", "train", "validation")
"""The images that a model is scored on."""


def summarise(  # noqa: PLR0913 - all but the first two by keyword
    rows: Sequence[Mapping[str, Any]],
    config: Config,
    *,
    facts: Mapping[str, Any],
    initial: Mapping[str, float | None],
    wall_seconds: float,
    run_directory: Path,
    final: Mapping[str, Any] = NOT_SCORED,
    metrics: Sequence[Metric] = (),
    stopped: bool = False,
) -> dict[str, Any]:
    """Return a run's summary: what it was, how well it learnt, what it cost.

    Its keys are `fedsplit.fields.SUMMARY_KEYS` and those of the declared metrics.

    Parameters
    ----------
    rows : Sequence[Mapping[str, Any]]
        One for each finished round.
    config : Config
        The run's configuration.
    facts : Mapping[str, Any]
        What is known before the first round, by `fedsplit.fields.START_KEYS`. ``partitioner`` None:
        that of the config.
    initial : Mapping[str, float | None]
        ``test_loss`` and ``test_accuracy`` before the first round.
    wall_seconds : float
        From the start of the run to now.
    run_directory : Path
        Absolute.
    final : Mapping[str, Any]
        What is known of the final model: the digest of its weights, and its scores of classes (see
        `fedsplit.results.classes`).
    metrics : Sequence[Metric]
        The declared metrics. If there are any, ``declared_metrics`` describes them.
    stopped : bool
        Whether somebody has ended the run before its last round, beside `patience`.
    """
    last = rows[-1] if rows else {}
    number = best_round(rows, config.monitor)
    best: Mapping[str, Any] = next((row for row in rows if row["round"] == number), {})
    fewer = len(rows) < config.num_server_rounds
    found = {
        "strategy": config.strategy,
        "model": config.model.name,
        "dataset": config.data.name,
        "num_rounds": config.num_server_rounds,
        "finished_rounds": len(rows),
        "stopped_early": stopped or (fewer and is_over(rows, config.monitor, config.patience)),
        "seed": config.seed,
        **facts,
        "partitioner": facts["partitioner"] or config.data.partitioner,
        "topology": None if facts["cut_layer"] is None else config.split.topology,
        "initial_accuracy": initial["test_accuracy"],
        "initial_loss": initial["test_loss"],
        "final_accuracy": last.get("test_accuracy"),
        "final_loss": last.get("test_loss"),
        **final,
        "best_accuracy": best.get("test_accuracy"),
        "best_round": best.get("round"),
        **{field.key: over_rounds(field, rows) for field in TOTAL_FIELDS},
        "network_profile": None if config.network.profile == "none" else config.network.profile,
        "wall_seconds": wall_seconds,
        "train_samples_per_second": _samples_per_second(rows),
        "seconds_per_client_round": _seconds_per_client_round(rows),
        "run_directory": str(run_directory),
        "fedsplit_version": _version("fedsplit"),
        "torch_version": _version("torch"),
        "flwr_version": _version("flwr"),
    }
    summary = {key: found[key] for key in SUMMARY_KEYS}
    if metrics:
        totals = [metric for metric in metrics if metric.over_rounds != "none"]
        summary |= {metric.key: over_rounds(metric, rows) for metric in totals}
        summary[DECLARED_KEY] = [metric.description() for metric in metrics]
    return summary


def what_ran(summary: Mapping[str, Any], *, rounds: str) -> str:
    """Say in one line what a run was.

    Parameters
    ----------
    summary : Mapping[str, Any]
        The run's summary.
    rounds : str
        How many rounds, in words.
    """
    return (
        f"{summary['strategy']} ({how_split(summary)}), {printable(summary['model'])} on "
        f"{printable(summary['dataset'])} ({summary['partitioner']}), "
        f"{counted(summary['num_clients'], 'client')}, {rounds}, seed {summary['seed']}"
    )


def weights_of(summary: Mapping[str, Any]) -> str:
    """Say with which weights a run began."""
    if not summary["pretrained"]:
        return "drawn from the seed"
    return f"pretrained (SHA-256 {summary['weights_sha256'][:12]})"


def scores_by_round(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], measure: str
) -> dict[str, list[tuple[int, float]]]:
    """Return a run's curves: data -> (round, score), without what was not measured.

    Parameters
    ----------
    rows : Sequence[Mapping[str, Any]]
        The rounds.
    summary : Mapping[str, Any]
        The run's summary. The test score before training is the point at round 0.
    measure : str
        ``accuracy`` or ``loss``.

    Returns
    -------
    dict[str, list[tuple[int, float]]]
        In the order of `SCORED_DATA`, without those that have no point.
    """
    curves = {}
    for data in SCORED_DATA:
        points = [(row["round"], row[f"{data}_{measure}"]) for row in rows]
        if data == "test" and rows:
            points.insert(0, (0, summary[f"initial_{measure}"]))
        if known := [(number, score) for number, score in points if score is not None]:
            curves[data] = known
    return curves


def how_split(summary: Mapping[str, Any]) -> str:
    """Say where the model is cut, in a few words."""
    if summary["cut_layer"] is None:
        return "unsplit"
    u_shaped = ", u-shaped" if summary["topology"] == "u-shaped" else ""
    return f"cut {summary['cut_layer']}{u_shaped}"


def _samples_per_second(rows: Sequence[Mapping[str, Any]]) -> float | None:
    seconds = sum(row["train_seconds"] or 0.0 for row in rows)
    samples = sum(row["num_examples"] or 0 for row in rows)
    return samples / seconds if seconds else None


def _seconds_per_client_round(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the wall time of training, per participant and round."""
    seconds = sum(row["train_seconds"] or 0.0 for row in rows)
    participants = sum(row["num_participants"] or 0 for row in rows)
    return seconds / participants if participants else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # Flower runs fedsplit itself from a bundle
        return None
