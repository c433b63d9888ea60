"""Dropout draws from torch's global generator, which no seed of a run reaches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from fedsplit.models.skeletons import skeleton


def dropout_probabilities(model_name: str, cache_dir: str | Path | None = None) -> dict[str, float]:
    """Return the keys of a model's config that set a dropout above 0, with their values.

    Those of a nested config carry its name: ``vision_config.attention_dropout``. For a model
    without a config they are the names of modules that drop, and the highest value of each name.

    Raises
    ------
    ModelError
        If the model's config cannot be had.
    """
    model = skeleton(model_name, cache_dir=cache_dir)
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    if not configs:  # a model of the user's own, or of another library
        return _of_modules(model)
    # Not those of CLIP's text model, say, where only the images' is held.
    return dict(_probabilities(configs[0], {type(config) for config in configs}))


def _probabilities(config: Any, held: set[type], prefix: str = "") -> Iterator[tuple[str, float]]:  # noqa: ANN401
    for key, value in vars(config).items():
        if type(value) in held:
            yield from _probabilities(value, held, f"{prefix}{key}.")
        # hidden_dropout_prob, attention_dropout, drop_path_rate: as the families have them.
        elif "drop" in key and isinstance(value, int | float) and value > 0:
            yield prefix + key, float(value)


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
