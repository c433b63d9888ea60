"""The directory of a comparison: one process at a time, and its finished runs."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsplit.compare.runs import Plan, PlannedRun
from fedsplit.config import Config, Scalar
from fedsplit.errors import ConfigError, FedSplitError
from fedsplit.results.run_directory import RunDirectory

# Where a run is, and how fast it goes: these keys do not change its results.
_WITHOUT_EFFECT = ("output-dir", "run-name", "max-concurrent-clients")


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
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(
            f"Cannot make '{directory}': {error.strerror or error}. Set --output-dir to a "
            "directory that you can write to."
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"Another 'fedsplit compare' is running in '{directory}'. Wait until it has finished, "
            "or choose another --output-dir."
        ) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def finished_runs(plan: Plan) -> set[PlannedRun]:
    """Return the finished runs, and remove the directories of unfinished ones.

    Raises
    ------
    ConfigError
        If a directory holds a finished run of another config, or something that is not a run.
        Then nothing is removed.
    """
    finished: set[PlannedRun] = set()
    unfinished: list[Path] = []
    faults = []
    for run in plan.runs:
        kept = RunDirectory(run.directory)
        if kept.summary_path.is_file():
            if differing := _differing(kept, run.config):
                faults.append(f"'{kept.path}' differs in {', '.join(differing)}")
            finished.add(run)
        elif os.path.lexists(kept.path):
            if not kept.config_path.is_file() and any(kept.path.glob("*")):
                faults.append(f"'{kept.path}' is not the directory of a run")
            unfinished.append(kept.path)
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
    for path in unfinished:
        shutil.rmtree(path)
    return finished


def _differing(kept: RunDirectory, asked: Config) -> list[str]:
    """Return how the config of a finished run differs, key by key."""
    try:
        was = _with_effect(Config.load(kept.config_path))
    except FedSplitError:
        return ["a config.toml that cannot be read"]
    now = _with_effect(asked)
    return [f"{key} = {was[key]!r}, now {now[key]!r}" for key in now if was[key] != now[key]]


def _with_effect(config: Config) -> dict[str, Scalar]:
    return {key: value for key, value in config.to_flat().items() if key not in _WITHOUT_EFFECT}
