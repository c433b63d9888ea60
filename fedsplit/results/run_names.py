"""The names of run directories, and how one gets its name."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from fedsplit.config import Config
from fedsplit.errors import ConfigError


def free_name(config: Config) -> str:
    """Return ``run-name``, or one that is free in ``output-dir``."""
    if config.run_name:
        return config.run_name
    output_dir = Path(config.output_dir)
    return next(name for name in names(config) if not os.path.lexists(output_dir / name))


def names(config: Config) -> Iterator[str]:
    """Yield the names that a run without a ``run-name`` tries."""
    base = f"{_strategy_word(config.strategy)}-{_dataset_word(config.data.name)}-{_timestamp()}"
    yield base
    yield from (f"{base}-{number}" for number in itertools.count(2))


def make_named(output_dir: Path, config: Config) -> Path:
    """Make the directory of a run in a folder, and return its path.

    Raises
    ------
    ConfigError
        If the ``run-name`` is taken.
    OSError
        If it cannot be made.
    """
    if config.run_name:
        path = output_dir / config.run_name
        try:
            path.mkdir()
        except FileExistsError:
            raise taken(path) from None
        return path
    for name in names(config):
        path = output_dir / name
        try:
            path.mkdir()  # atomic: only one of two runs gets the name
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def taken(path: Path) -> ConfigError:
    """Return the error about a run directory that exists already."""
    return ConfigError(
        f"The run directory '{path}' exists already and was not changed. Choose another "
        "run-name, leave it empty to get a new name for each run, or remove the directory."
    )


def _timestamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S")


def _strategy_word(name: str) -> str:
    """Return a strategy's name; of one's own, its package and class."""
    module, _, own = name.rpartition(":")
    return f"{module.partition('.')[0]}.{own}" if module else name


def _dataset_word(name: str) -> str:
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name)[:40].strip("-.")
    return word or "data"
