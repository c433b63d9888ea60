"""A small random model of every family and variant, and images for it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from fedsplit.models import InputSpec, load_model
from fedsplit.models.registry import family_of
from fedsplit.seeding import generator, seeded_init
from tests.models.families import library_zoo, qwen3_vl_toys

_TWO_BLOCKS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_WIDE_IMAGES = {"image_size": [16, 24], "patch_size": 8, "num_labels": 3}
_NO_DROP = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0}
_PLAIN = {**_TWO_BLOCKS, **_WIDE_IMAGES, "intermediate_size": 24}
_DEIT = {**_PLAIN, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# transformers itself takes no other images than square ones with these position embeddings.
_SQUARE = {"image_size": 16, "patch_size": 8, "num_labels": 3}
_DINOV2 = {**_TWO_BLOCKS, **_SQUARE, **_NO_DROP, "mlp_ratio": 2}
_BEIT = {**_PLAIN, **_NO_DROP}
_TOWER = {**_TWO_BLOCKS, "intermediate_size": 24, "image_size": 16, "patch_size": 8}
_NAFLEX = {**_TWO_BLOCKS, "intermediate_size": 24, "num_patches": 4, "patch_size": 8}
_TEXT = {**_TWO_BLOCKS, "intermediate_size": 24, "vocab_size": 9}
# 7 x 6 patches: windows of 3 are shifted and padded, also where 7 has become 4. (transformers
# itself fails where a window is larger than the map.)
_SWIN = {
    **_NO_DROP,
    "image_size": [28, 24],
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "mlp_ratio": 2.0,
    "window_size": 3,
    "num_labels": 3,
}

# name -> (class, class of its config, the config), of transformers
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", _DEIT),
    "deit": ("DeiTForImageClassification", "DeiTConfig", _DEIT),
    "deit-teacher": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", _DEIT),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", _DINOV2),
    "dinov2-swiglu": (
        "Dinov2ForImageClassification",
        "Dinov2Config",
        {**_DINOV2, "use_swiglu_ffn": True, "use_mask_token": False},
    ),
    "dinov2-registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        {**_DINOV2, "num_register_tokens": 3},
    ),
    "clip": (
        "CLIPForImageClassification",
        "CLIPConfig",
        {"vision_config": _TOWER, "text_config": _TEXT, "num_labels": 3},
    ),
    "siglip": (
        "SiglipForImageClassification",
        "SiglipConfig",
        {"vision_config": _TOWER, "text_config": _TEXT, "num_labels": 3},
    ),
    "siglip-no-pooling": (
        "SiglipForImageClassification",
        "SiglipConfig",
        {"vision_config": {**_TOWER, "vision_use_head": False}, "num_labels": 3},
    ),
    "beit": (
        "BeitForImageClassification",
        "BeitConfig",
        {
            **_BEIT,
            **_SQUARE,
            "use_absolute_position_embeddings": True,
            "use_mean_pooling": False,
        },
    ),
    "beit-layers": (
        "BeitForImageClassification",
        "BeitConfig",
        {**_BEIT, "use_relative_position_bias": True},
    ),
    "beit-shared": (
        "BeitForImageClassification",
        "BeitConfig",
        {**_BEIT, "use_shared_relative_position_bias": True, "num_hidden_layers": 3},
    ),
    "beit-both": (
        "BeitForImageClassification",
        "BeitConfig",
        {
            **_BEIT,
            "use_shared_relative_position_bias": True,
            "use_relative_position_bias": True,
            "use_mean_pooling": False,
            "use_mask_token": True,
            **_SQUARE,
        },
    ),
    "swin": ("SwinForImageClassification", "SwinConfig", _SWIN),
    "swin-absolute": (
        "SwinForImageClassification",
        "SwinConfig",
        {**_SWIN, "image_size": 24, "depths": [1, 2], "use_absolute_embeddings": True},
    ),
    # 12 x 6 patches, and no padding, where its normalised attention has no value in float16.
    "swinv2": (
        "Swinv2ForImageClassification",
        "Swinv2Config",
        {**_SWIN, "image_size": [48, 24], "pretrained_window_sizes": [2, 3]},
    ),
}

# The same, of fedsplit: what transformers lacks.
OURS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dinov3": (
        "fedsplit.models.dinov3_classifier:DINOv3ViTForImageClassification",
        "DINOv3ViTConfig",
        {**_PLAIN, "num_register_tokens": 3, "layerscale_value": 0.5},
    ),
    "dinov3-gated": (
        "fedsplit.models.dinov3_classifier:DINOv3ViTForImageClassification",
        "DINOv3ViTConfig",
        {**_PLAIN, "num_register_tokens": 1, "use_gated_mlp": True, "pos_embed_jitter": 1.5},
    ),
    "siglip2": (
        "tests.models.families.siglip2_of_images:Siglip2ForImageClassification",
        "Siglip2Config",
        {"vision_config": _NAFLEX, "text_config": _TEXT, "num_labels": 3},
    ),
}


NAMES = (*TRANSFORMERS, *OURS, *library_zoo.LIBRARIES, "qwen3-vl vision", "vit-nano")


def make(name: str) -> nn.Module:
    """Make the model in eval mode, the same weights each time."""
    if name in library_zoo.LIBRARIES:
        return library_zoo.make(name)
    if name == "qwen3-vl vision":
        classifier: nn.Module = qwen3_vl_toys.classifier_of()
        return classifier
    if name == "vit-nano":
        with seeded_init(3, name):
            return library_zoo.disturbed(load_model(name), name)
    class_name, config_name, values = (TRANSFORMERS | OURS)[name]
    module, _, class_name = class_name.rpartition(":")
    place = import_module(module or "transformers")
    config = getattr(transformers, config_name)(**values)
    with seeded_init(3, name):
        model: nn.Module = getattr(place, class_name)(config)
    return library_zoo.disturbed(model, name).eval()


def images_of(model: nn.Module) -> InputSpec:
    config: Any = getattr(model, "config", None)
    if config is None:
        return library_zoo.SPEC
    vision = getattr(config, "vision_config", config)
    image_shape = family_of(model).image_shape
    if image_shape is not None:
        size: Any = list(image_shape(config)[1:])
    else:
        size = vision.image_size
    height, width = (size, size) if isinstance(size, int) else size
    channels = getattr(vision, "num_channels", 3)
    return InputSpec(channels, height, width, (0.5,) * channels, (0.5,) * channels)


def batch(model: nn.Module, step: int = 0, size: int = 2) -> tuple[Tensor, Tensor]:
    spec = images_of(model)
    draw = generator(5, "batch", step)
    images = torch.randn(size, spec.channels, spec.height, spec.width, generator=draw)
    return images, torch.randint(0, 3, (size,), generator=draw)
