"""The directory of a comparison: one process at a time, and the runs that it holds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedsplit.compare.made_with import Present, made_with
from fedsplit.compare.runs import Plan, PlannedRun
from fedsplit.config import Config, Scalar
from fedsplit.errors import ConfigError, FedSplitError
from fedsplit.locks import FileLock
from fedsplit.results.run_directory import RunDirectory
from fedsplit.resume import continued, without_place

# Where a run is, and how fast it goes: these keys do not change its results.
_WITHOUT_EFFECT = (
    *("output-dir", "run-name", "resume", "console"),
    *("max-concurrent-clients", "checkpoint-every"),
)


@contextmanager
def locked(directory: Path) -> Iterator[int]:
    """Make the directory of a comparison, and lock it against other processes.

    Yields
    ------
    int
        The file descriptor of the lock. A process that inherits it holds the lock too.

    Raises
    ------
    ConfigError
        If another process has locked it, or it cannot be made.
    """
    try:
        for folder in ("runs", "logs", "configs"):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        lock = FileLock.take(directory / ".lock")
    except OSError as error:
        raise ConfigError(
            f"Cannot make '{directory}': {error.strerror or error}. Set --output-dir to a "
            "directory that you can write to."
        ) from None
    if lock is None:
        raise ConfigError(
            f"Another 'fedsplit compare' is running in '{directory}'. Wait until it has finished, "
            "or choose another --output-dir."
        )
    try:
        yield lock.descriptor
    finally:
        lock.release()


@dataclass(frozen=True)
class Found:
    """The runs of a plan whose directories exist.

    Attributes
    ----------
    finished : frozenset[PlannedRun]
        Those that have ended.
    begun : Mapping[PlannedRun, Config]
        Those that continue, with the config that does so.
    """

    finished: frozenset[PlannedRun]
    begun: Mapping[PlannedRun, Config]


def find_runs(plan: Plan) -> Found:
    """Return the runs that exist, and remove directories of other configs without any round.

    Raises
    ------
    ConfigError
        If a directory holds rounds of another config, or something that is not a run. Then
        nothing is removed.
    """
    present = Present()
    finished: set[PlannedRun] = set()
    begun: dict[PlannedRun, Config] = {}
    without_rounds: list[PlannedRun] = []
    faults = []
    for run in plan.runs:
        kept = RunDirectory(run.directory)
        if kept.summary_path.is_file():
            differing = _differing(kept, run.config) or _changed(kept, run.config, present)
            faults += [f"'{kept.path}' differs in {', '.join(differing)}"] if differing else []
            finished.add(run)
        elif os.path.lexists(kept.path):
            if not kept.config_path.is_file() and any(kept.path.glob("*")):
                faults.append(f"'{kept.path}' is not the directory of a run")
                continue
            try:
                begun[run] = continued(run.directory, without_place(run.config))
            except FedSplitError as error:
                if kept.checkpoints.rounds() or kept.owner() is not None:
                    faults.append(str(error))
                else:
                    without_rounds.append(run)
            else:
                changed = _changed(kept, run.config, present)
                faults += (
                    [f"'{kept.path}' is half done, and differs in {', '.join(changed)}"]
                    if changed
                    else []
                )
    if faults:
        raise ConfigError(
            "\n  ".join(
                [
                    "The directory holds other runs than this comparison asks for. Remove them, or "
                    "choose another --output-dir or name:",
                    *faults,
                ]
            )
        )
    for run in without_rounds:
        shutil.rmtree(run.directory)
    return Found(frozenset(finished), begun)


def _differing(kept: RunDirectory, asked: Config) -> list[str]:
    """Return how the config of a finished run differs, key by key."""
    try:
        was = _with_effect(Config.load(kept.config_path))
    except FedSplitError:
        return ["a config.toml that cannot be read"]
    now = _with_effect(asked)
    return [f"{key} = {was[key]!r}, now {now[key]!r}" for key in now if was[key] != now[key]]


def _changed(kept: RunDirectory, asked: Config, present: Present) -> list[str]:
    """Return how the code and the images of a run with rounds differ from those of now."""
    try:
        then = made_with(kept)
    except (OSError, ValueError) as error:
        return [f"a summary.json that cannot be read ({error})"]
    return [] if then is None else list(then.differences(present.of(asked)))


def _with_effect(config: Config) -> dict[str, Scalar]:
    return {key: value for key, value in config.to_flat().items() if key not in _WITHOUT_EFFECT}
