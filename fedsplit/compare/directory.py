"""The directory of a comparison: one process at a time, and the runs that it holds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedsplit.compare.runs import Plan, PlannedRun
from fedsplit.config import Config, Scalar
from fedsplit.errors import ConfigError, FedSplitError
from fedsplit.locks import FileLock
from fedsplit.own_code import code_digest
from fedsplit.results.run_directory import RunDirectory
from fedsplit.resume import continued, without_place

# Where a run is, and how fast it goes: these keys do not change its results.
_WITHOUT_EFFECT = ("output-dir", "run-name", "resume", "max-concurrent-clients", "checkpoint-every")


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
    finished: set[PlannedRun] = set()
    begun: dict[PlannedRun, Config] = {}
    without_rounds: list[PlannedRun] = []
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
                continue
            try:
                begun[run] = continued(run.directory, without_place(run.config))
            except FedSplitError as error:
                if kept.checkpoints.rounds() or kept.owner() is not None:
                    faults.append(str(error))
                else:
                    without_rounds.append(run)
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
    found = [f"{key} = {was[key]!r}, now {now[key]!r}" for key in now if was[key] != now[key]]
    if _code_of(kept) != code_digest(now.values()):
        found.append("your own code, which has changed since")
    return found


def _code_of(kept: RunDirectory) -> str | None:
    """Return the digest of the user's own code with which a run was made."""
    summary = json.loads(kept.summary_path.read_text(encoding="utf-8"))
    code: str | None = summary.get("code_sha256")
    return code


def _with_effect(config: Config) -> dict[str, Scalar]:
    return {key: value for key, value in config.to_flat().items() if key not in _WITHOUT_EFFECT}
