"""Directories as `fedsplit compare` leaves them, made for tests without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedsplit.config import Config
from fedsplit.fields import Metric
from fedsplit.report.comparison import ComparedRun, Comparison
from fedsplit.results.run_directory import RunDirectory
from tests.results.examples import SPLIT_FACTS, UNSPLIT_FACTS, a_row, a_start, a_summary

CLASS_NAMES = [f"class {number}" for number in range(10)]
SHARDS = [[10 * (client + 1) + label for label in range(10)] for client in range(4)]


def write_run(
    config: Config,
    *,
    rounds: int = 3,
    metrics: Sequence[Metric] = (),
    lead: float = 0.0,
    **header: object,
) -> RunDirectory:
    """Write the directory of a finished run.

    Its last accuracy is 0.5 + seed / 100 + lead, and the values of a metric are
    1000 x round + seed.
    """
    directory = RunDirectory.create(config)
    split = config.strategy not in ("full", "centralized")
    of_strategy = dict(SPLIT_FACTS if split else UNSPLIT_FACTS)
    rows = []
    for number in range(1, rounds + 1):
        score = 0.5 + config.seed / 100 + lead - (rounds - number) / 10
        row = a_row(number, test_accuracy=score)
        row |= {"cut_uplink_bytes": 1_000_000 + config.seed} if split else {}
        if config.strategy == "centralized":
            row |= {key: 0 for key in row if key.endswith("_bytes")}
            of_strategy |= {"client_flops_per_sample": 0, "client_parameters": 0}
        row |= {metric.key: 1000 * number + config.seed for metric in metrics}
        rows.append(row)
        directory.append_round(row)
    directory.write_shards(SHARDS, CLASS_NAMES)
    of_run = of_strategy | header
    directory.write_start(a_start(of_run, metrics))
    directory.write_summary(a_summary(rows, of_run, metrics=metrics, **config.to_flat()))
    directory.close()
    return directory


def write_comparison(
    directory: Path,
    *,
    variants: dict[str, dict[str, Any]],
    settings: Sequence[str] = ("iid", "dirichlet(0.1)"),
    seeds: Sequence[int] = (1, 3),
    failed: Sequence[str] = (),
    metrics: Mapping[str, Sequence[Metric]] = MappingProxyType({}),
) -> Path:
    """Write the directory of a comparison.

    Runs whose directory is in `failed` have no results; `metrics` are those that the runs of a
    variant declare. No two variants of `VARIANTS` or `MANY` are equally accurate (`LEADS`).
    """
    runs = []
    for seed in seeds:
        for setting in settings or [""]:
            for label, keys in variants.items():
                name = f"{setting}-{label}-seed{seed}".lstrip("-")
                runs.append(ComparedRun(setting, label, seed, f"runs/{name}"))
                if name not in failed:
                    own = {"seed": seed, "output-dir": str(directory / "runs"), "run-name": name}
                    config = Config.load({**keys, **own, "num-server-rounds": 3})
                    lead = LEADS.get(label, 0.0)
                    write_run(config, metrics=metrics.get(label, ()), lead=lead)
    partitioners: dict[str, dict[str, Any]] = {
        "dirichlet(0.1)": {"data.partitioner": "dirichlet", "data.alpha": 0.1}
    }
    Comparison(
        name="example",
        command="fedsplit compare example.toml",
        seeds=list(seeds),
        base={"num-server-rounds": 3},
        settings={setting: dict(partitioners.get(setting, {})) for setting in settings},
        variants=variants,
        jobs=2,
        runs=runs,
        failures={f"runs/{name}": "Every participant of round 1 failed." for name in failed},
        wall_seconds=100.0,
    ).write(directory)
    return directory


VARIANTS: dict[str, dict[str, Any]] = {
    "centralized": {"strategy": "centralized"},
    "full": {"strategy": "full"},
    "split <b>|": {"strategy": "sflv1"},
}
MANY: dict[str, dict[str, Any]] = {f"sflv1 number {n}": {"batch-size": n} for n in range(1, 12)}
LEADS = {"centralized": 0.03, "split <b>|": 0.02} | {
    label: -number / 1000 for number, label in enumerate(MANY)
}
"""Label of a variant -> how much more accurate than `full` its runs are."""
