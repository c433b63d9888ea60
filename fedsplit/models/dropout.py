"""Dropout draws from torch's global generator, which no seed of a run reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from fedsplit.models.loading import skeleton


def dropout_probabilities(model_name: str, cache_dir: str | Path | None = None) -> dict[str, float]:
    """Return the keys of a model's config that set a dropout above 0, with their values.

    Without a config, the names of modules that drop, and the highest value of each name.

    Raises
    ------
    ModelError
        If the model's config cannot be had.
    """
    model = skeleton(model_name, cache_dir=cache_dir)
    config: Any = getattr(model, "config", None)
    if config is None:
        return _of_modules(model)
    return {
        key: float(value)
        for key, value in config.to_dict().items()
        # hidden_dropout_prob, attention_dropout, drop_path_rate: as the families have them.
        if "drop" in key and isinstance(value, int | float) and value > 0
    }


def _of_modules(model: nn.Module) -> dict[str, float]:
    found: dict[str, float] = {}
    for path, module in model.named_modules():
        # torch's Dropout, its attention, and timm's DropPath.
        values = (getattr(module, key, 0.0) for key in ("p", "dropout", "drop_prob"))
        highest = max((v for v in values if isinstance(v, int | float)), default=0.0)
        # One name for all blocks: those on the path that are not numbers.
        name = next((part for part in reversed(path.split(".")) if not part.isdigit()), "")
        if highest > 0:
            key = name or "dropout"
            found[key] = max(float(highest), found.get(key, 0.0))
    return found
