"""Dropout draws from torch's global generator, which no seed of a run reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedsplit.models.loading import skeleton


def dropout_probabilities(model_name: str, cache_dir: str | Path | None = None) -> dict[str, float]:
    """Return the keys of a model's config that set a dropout above 0, with their values.

    Raises
    ------
    ModelError
        If the config cannot be had.
    """
    config: Any = skeleton(model_name, cache_dir=cache_dir).config
    return {
        key: float(value)
        for key, value in config.to_dict().items()
        # hidden_dropout_prob, attention_dropout, drop_path_rate: as the families have them.
        if "drop" in key and isinstance(value, int | float) and value > 0
    }
