"""Configs that mean a model of another model_type, or that are no config of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A tower that was saved alone. transformers classifies with it by the class of the whole model,
# whose config holds the tower's.
_TOWERS = {
    "clip_vision_model": "clip",
    "siglip_vision_model": "siglip",
    "siglip2_vision_model": "siglip2",
}
# MAE's encoder is a ViT, and is fine-tuned as one.
_SAME = {"vit_mae": "vit"}


def as_known(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of config.json as that of a family."""
    kind = config.get("model_type")
    if kind is None and "pretrained_cfg" in config:  # as timm writes it
        return {"model_type": "timm-vit", **config}
    if kind in _TOWERS:
        return {"model_type": _TOWERS[kind], "vision_config": dict(config)}
    return {**config, "model_type": _SAME[kind]} if kind in _SAME else dict(config)
