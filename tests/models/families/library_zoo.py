"""Small random ViTs of torchvision and timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from fedsplit.models import InputSpec
from fedsplit.models.hub import Source
from fedsplit.models.libraries.timm_eva import LIBRARY
from fedsplit.seeding import generator, seeded_init

SPEC = InputSpec(
    *(3, 16, 16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), resample=3, resize=20, crop_rounding="even"
)
LABELS = 3

_TORCHVISION: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "mlp_dim": 24,
    "num_classes": LABELS,
}
_TIMM: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "depth": 2,
    "num_heads": 2,
    "embed_dim": 16,
    "mlp_ratio": 1.5,
    "num_classes": LABELS,
}
# 8 x 8 patches, then 4 x 4, where a window is all: shifted only before.
_SWIN: dict[str, Any] = {
    "patch_size": [2, 2],
    "embed_dim": 16,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "window_size": [4, 4],
    "mlp_ratio": 1.5,
    "stochastic_depth_prob": 0.0,
    "num_classes": LABELS,
}
_CLASSES = {
    "torchvision": ("torchvision.models.vision_transformer", "VisionTransformer"),
    "torchvision-swin": ("torchvision.models.swin_transformer", "SwinTransformer"),
    "timm": ("timm.models.vision_transformer", "VisionTransformer"),
    "timm-eva": ("timm.models.eva", "Eva"),
}
# name -> (library, arguments, P tokens before the N = 4 patches; None if the state is a map)
LIBRARIES: Mapping[str, tuple[str, dict[str, Any], int | None]] = {
    "torchvision": ("torchvision", _TORCHVISION, 1),
    "torchvision-representation": ("torchvision", {**_TORCHVISION, "representation_size": 12}, 1),
    "torchvision-swin": ("torchvision-swin", _SWIN, None),
    "torchvision-swin-v2": ("torchvision-swin", {**_SWIN, "version": 2}, None),
    "timm": ("timm", _TIMM, 1),
    "timm-registers": (
        "timm",
        {**_TIMM, "reg_tokens": 3, "no_embed_class": True, "init_values": 0.5, "qk_norm": True},
        4,
    ),
    "timm-mean": ("timm", {**_TIMM, "class_token": False, "global_pool": "avg"}, 0),
    "timm-map": ("timm", {**_TIMM, "class_token": False, "global_pool": "map"}, 0),
    "timm-eva02": ("timm-eva", {**_TIMM, "architecture": "eva02_tiny_patch14_224"}, 1),
    "timm-dinov3": ("timm-eva", {**_TIMM, "architecture": "vit_small_patch16_dinov3"}, 5),
    "timm-bare": ("timm", {**_TIMM, "pos_embed": "none", "pre_norm": True, "qkv_bias": False}, 1),
}


def make(name: str, **changes: object) -> nn.Module:
    """Make the model in eval mode, the same weights each time."""
    library, arguments, _ = LIBRARIES[name]
    place, class_name = _CLASSES[library]
    module = pytest.importorskip(place)
    given = {**arguments, **changes}
    if library == "timm-eva":
        return _eva(name, given)
    if given.pop("version", 1) == 2:
        given["block"] = module.SwinTransformerBlockV2
        given["downsample_layer"] = module.PatchMergingV2
    with seeded_init(3, name):
        model: nn.Module = getattr(module, class_name)(**given)
    return disturbed(model, name).eval()


def _eva(name: str, given: dict[str, Any]) -> nn.Module:
    # By the library of fedsplit, which notes the arguments that a saved model needs.
    config = {"architecture": given.pop("architecture"), "num_classes": given.pop("num_classes")}
    source = Source(name, {**config, "model_type": "timm-eva", "model_args": given}, None)
    with seeded_init(3, name):
        model: nn.Module = LIBRARY.build(source, nn.Module, None)
    return disturbed(model, name).eval()


def disturbed(model: nn.Module, name: str) -> nn.Module:
    # Heads and biases start at 0 and norms at 1, where an exchange of two would not show.
    draw = generator(3, "noise", name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model
