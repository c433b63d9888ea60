"""Read the directories of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsplit.config import Config
from fedsplit.errors import ConfigError, FedSplitError, sentence
from fedsplit.fields import DECLARED_KEY, Metric, declared_in
from fedsplit.names import printable
from fedsplit.report.comparison import ComparedRun, Comparison
from fedsplit.report.results_check import (
    check_clients,
    check_metrics,
    checked_rows,
    checked_summary,
)
from fedsplit.results.files import read_lines, read_object
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.saved import Saved
from fedsplit.results.shards_file import Shards, read_shards
from fedsplit.results.summary import summarise
from fedsplit.results.text import counted

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class RunRecord:
    """What the directory of a run holds.

    Attributes
    ----------
    directory : Path
        Absolute.
    config : Config
        The configuration of the run.
    rounds : list[dict[str, Any]]
        The objects in rounds.jsonl.
    summary : dict[str, Any]
        The object in summary.json.
    class_counts : list[list[int]]
        Training images of each client and class, [K, classes]. Empty if the run did not keep them.
    class_names : list[str]
        The names of the classes, [classes].
    metrics : tuple[Metric, ...]
        The metrics that the strategy and rules of the run declare.
    clients : list[dict[str, Any]]
        The objects in clients.jsonl, of the rounds that have ended. Empty if the run kept none.
    finished : bool
        Whether the run has ended.
    """

    directory: Path
    config: Config
    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    class_counts: list[list[int]]
    class_names: list[str]
    metrics: tuple[Metric, ...] = ()
    clients: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = True


@dataclass(frozen=True)
class Gathered:
    """A comparison with the results of its finished runs.

    Attributes
    ----------
    directory : Path
        The directory of the whole comparison, absolute.
    comparison : Comparison
        What was compared.
    finished : Mapping[ComparedRun, RunRecord]
        In the comparison's order.
    """

    directory: Path
    comparison: Comparison
    finished: Mapping[ComparedRun, RunRecord]

    @property
    def settings(self) -> list[str]:
        """The labels of the settings, or one empty label if there are no settings."""
        return list(self.comparison.settings) or [""]

    @property
    def failed(self) -> dict[str, str]:
        """Directory of a run that failed -> why."""
        return {
            run.directory: self.comparison.failures[run.directory]
            for run in self.comparison.runs
            if run not in self.finished and run.directory in self.comparison.failures
        }

    @property
    def missing(self) -> dict[str, str]:
        """Directory of a run that has not finished and has not failed -> how far it is."""
        return {
            run.directory: _progress(RunDirectory(self.directory / run.directory))
            for run in self.comparison.runs
            if run not in self.finished and run.directory not in self.failed
        }

    def has_runs(self, setting: str) -> bool:
        """Return whether any run of a setting has finished."""
        return any(run.setting == setting for run in self.finished)

    def of(self, setting: str, label: str) -> list[RunRecord]:
        """Return the finished runs of a variant in a setting, one for each seed."""
        return [
            record
            for run, record in self.finished.items()
            if (run.setting, run.label) == (setting, label)
        ]


def uneven_images(gathered: Gathered) -> dict[str, str]:
    """Return the variants whose runs did not have the same number of images, and the numbers.

    Only the seed differs between these runs, so the data set has changed in the meantime.
    """
    found = {}
    for setting in gathered.settings:
        for label in gathered.comparison.variants:
            seeds: dict[int, list[str]] = {}
            for record in gathered.of(setting, label):
                # The seed draws the classes of this partitioner, of which some may be nobody's.
                drawn = record.config.data.partitioner == "pathological"
                splits = ("test",) if drawn else _SPLITS
                images = sum(record.summary[f"num_{split}_examples"] or 0 for split in splits)
                seeds.setdefault(images, []).append(str(record.summary["seed"]))
            if len(seeds) > 1:
                found[f"{setting} {label}".strip()] = "; ".join(
                    f"{images:,} images with seed {', '.join(of)}" for images, of in seeds.items()
                )
    return found


def gather(directory: Path) -> Gathered:
    """Read a comparison's directory.

    Raises
    ------
    ConfigError
        If it is not a comparison's, or one of its files cannot be read.
    """
    directory = directory.absolute()
    comparison = Comparison.read(directory)
    finished = {
        run: read_run(directory / run.directory)
        for run in comparison.runs
        if RunDirectory(directory / run.directory).summary_path.is_file()
    }
    return Gathered(directory, comparison, finished)


def read_run(directory: Path) -> RunRecord:
    """Read the directory of a run. The summary of an unfinished one is that of its rounds so far.

    Raises
    ------
    ConfigError
        If it is not that of a run with a finished round, or one of its files cannot be read.
    """
    kept = RunDirectory(directory)
    finished = kept.summary_path.is_file()
    try:
        rounds = checked_rows(read_lines(kept.rounds_path, whole=finished))
        shards = read_shards(kept.shards_path) if kept.shards_path.is_file() else Shards([], [])
        if not kept.config_path.is_file():
            raise ConfigError("it has no config.toml")
        config = Config.load(kept.config_path)
        if finished:
            found = read_object(kept.summary_path)
        else:
            found = _summary_so_far(kept, config, rounds)
        summary, metrics = checked_summary(found, shards.class_names), declared_in(found)
        check_metrics(metrics, rounds, summary)
        clients = read_lines(kept.client_results_path)
        check_clients(clients, max(summary["num_clients"], len(shards.class_counts)))
    except (OSError, ValueError, FedSplitError) as error:
        raise ConfigError(
            f"'{directory}' cannot be read as the directory of a run: {sentence(error)} Give a "
            "directory that 'fedsplit run' or 'fedsplit compare' has made."
        ) from None
    return RunRecord(
        directory=kept.path,
        config=config,
        rounds=rounds,
        summary=summary,
        class_counts=shards.class_counts,
        class_names=[printable(name) for name in shards.class_names],
        metrics=metrics,
        clients=[line for line in clients if line["round"] <= len(rounds)],
        finished=finished,
    )


def _progress(run: RunDirectory) -> str:
    """Say how far a run is."""
    try:
        asked = Config.load(run.config_path).num_server_rounds
        said = f"{len(read_lines(run.rounds_path))} of {counted(asked, 'round')}"
    except (OSError, ValueError, ConfigError):
        return "not begun"
    return said if run.owner() is None else f"{said}, running"


def _summary_so_far(
    kept: RunDirectory, config: Config, rounds: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    if not rounds:
        raise ConfigError("it has no finished round")
    started = Saved.from_json(read_object(kept.start_path))
    return summarise(
        rounds,
        config,
        facts=started.facts,
        initial=started.initial,
        wall_seconds=started.elapsed_seconds + sum(row["round_seconds"] for row in rounds),
        run_directory=kept.path,
        metrics=started.metrics,
    )


def summary_keys(records: Sequence[RunRecord]) -> list[str]:
    """Return the keys of all summaries in their order, without the descriptions of metrics."""
    keys = dict.fromkeys(key for record in records for key in record.summary)
    return [key for key in keys if key != DECLARED_KEY]
