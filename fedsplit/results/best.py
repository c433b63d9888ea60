"""Which round of a run is its best, and when a run that stops early is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedsplit.config import Config
from fedsplit.errors import ConfigError

Rows = Sequence[Mapping[str, Any]]


def best_round(rows: Rows, monitor: str) -> int | None:
    """Return the first round with the best score; None if no round has one.

    Parameters
    ----------
    rows : Rows
        Of rounds.jsonl, some or all.
    monitor : str
        Which score: the key ``monitor`` of the config. Of a loss the lowest is the best.
    """
    key, sign = monitor.replace("-", "_"), -1 if monitor.endswith("loss") else 1
    scored = [(sign * row[key], -row["round"]) for row in rows if row[key] is not None]
    return -max(scored)[1] if scored else None


def is_over(rows: Rows, monitor: str, patience: int) -> bool:
    """Return whether the score has not improved for `patience` rounds; 0 = never."""
    best = best_round(rows, monitor) if patience else None
    return best is not None and rows[-1]["round"] - best >= patience


def check_monitor(config: Config, num_validation: int) -> None:
    """Refuse to wait for scores on validation images, if the clients hold none out.

    Raises
    ------
    ConfigError
        Names the keys that decide.
    """
    if config.monitor != "test-accuracy" and num_validation == 0:
        raise ConfigError(
            f"monitor = '{config.monitor}' needs the clients' validation, and no image is held out "
            f"for it: fraction-evaluate = {config.fraction_evaluate:g}, data.validation-fraction = "
            f"{config.data.validation_fraction:g}. Raise them, or set monitor = 'test-accuracy'."
        )
