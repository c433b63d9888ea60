"""Find a model's dropout, which draws from torch's global generator and so ignores a run's seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn


def dropout_of(model: nn.Module) -> dict[str, float]:
    """Return what drops out in a model, with its probability where that is above 0.

    The names are the keys of the model's config; those of a nested config carry its name:
    ``vision_config.attention_dropout``. For a model without a config they are the names of
    modules, with the highest probability of each name.
    """
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    if not configs:  # a model of the user's own, or of another library
        return _of_modules(model)
    # Skip configs of what the model does not hold, such as CLIP's text model.
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
        # As torch's Dropout, its attention, and timm's DropPath call it.
        values = (getattr(module, key, 0.0) for key in ("p", "dropout", "drop_prob"))
        highest = max((v for v in values if isinstance(v, int | float)), default=0.0)
        # All blocks share a name: the last part of the path that is not a number.
        name = next((part for part in reversed(path.split(".")) if not part.isdigit()), "")
        if highest > 0:
            key = name or "dropout"
            found[key] = max(float(highest), found.get(key, 0.0))
    return found
