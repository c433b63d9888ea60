"""The names of run directories."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from fedsplit.config import Config


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


def _timestamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S")


def _strategy_word(name: str) -> str:
    """Return a strategy's name; of one's own, its package and class."""
    module, _, own = name.rpartition(":")
    return f"{module.partition('.')[0]}.{own}" if module else name


def _dataset_word(name: str) -> str:
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name)[:40].strip("-.")
    return word or "data"
