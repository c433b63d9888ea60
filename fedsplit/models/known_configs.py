"""Configs that mean a model of another model_type, or that are no config of transformers."""

from __future__ import annotations

import importlib
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

LIBRARY_TYPES = ("torchvision-vit", "torchvision-swin", "timm-vit", "timm-eva")
"""Of models that a library has by name, with weights."""


def config_of_name(library: str, architecture: str) -> dict[str, Any] | None:
    """Return the config that stands for a name such as ``timm:vit_small_patch16_224``.

    None if there is no such library.
    """
    if library == "timm":
        return {"model_type": _timm_type(architecture), "architecture": architecture}
    if library == "torchvision":
        kind = "swin" if architecture.startswith("swin_") else "vit"
        return {"model_type": f"torchvision-{kind}", "architecture": architecture}
    return None


def as_known(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of config.json as that of a family."""
    kind = config.get("model_type")
    if kind is None and "pretrained_cfg" in config:  # as timm writes it
        return {"model_type": _timm_type(str(config.get("architecture"))), **config}
    if kind in _TOWERS:
        return {"model_type": _TOWERS[kind], "vision_config": dict(config)}
    return {**config, "model_type": _SAME[kind]} if kind in _SAME else dict(config)


def _timm_type(architecture: str) -> str:
    """Ask timm in which module a model is; without timm, its family's library says so later."""
    try:
        models = importlib.import_module("timm.models")
    except ImportError:
        return "timm-vit"
    name = architecture.partition(".")[0]
    return "timm-eva" if models.is_model_in_modules(name, {"eva"}) else "timm-vit"
