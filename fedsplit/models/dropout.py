"""Dropout draws from torch's global generator, which no seed of a run reaches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedsplit.models.loading import skeleton


def dropout_probabilities(model_name: str, cache_dir: str | Path | None = None) -> dict[str, float]:
    """Return the keys of a model's config that set a dropout above 0, with their values.

    Those of a nested config carry its name: ``vision_config.attention_dropout``.

    Raises
    ------
    ModelError
        If the config cannot be had.
    """
    model = skeleton(model_name, cache_dir=cache_dir)
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    # Not those of CLIP's text model, say, where only the images' is held.
    return dict(_probabilities(configs[0], {type(config) for config in configs}))


def _probabilities(config: Any, held: set[type], prefix: str = "") -> Iterator[tuple[str, float]]:  # noqa: ANN401
    for key, value in vars(config).items():
        if type(value) in held:
            yield from _probabilities(value, held, f"{prefix}{key}.")
        # hidden_dropout_prob, attention_dropout, drop_path_rate: as the families have them.
        elif "drop" in key and isinstance(value, int | float) and value > 0:
            yield prefix + key, float(value)
