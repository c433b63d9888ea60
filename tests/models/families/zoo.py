"""A small random model of every family and variant, and what its whole computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsplit.models import InputSpec
from fedsplit.seeding import generator, seeded_init
from fedsplit.states import State, each

STEPS = 20

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

# name -> (class, class of its config, the config)
ZOO: Mapping[str, tuple[str, str, dict[str, Any]]] = {
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
}


class Step(NamedTuple):
    """What one batch gives in a whole model, by autograd alone."""

    logits: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]
    image_gradient: Tensor


def make(name: str) -> nn.Module:
    """Make the model in eval mode, the same weights each time."""
    class_name, config_name, values = ZOO[name]
    config = getattr(transformers, config_name)(**values)
    with seeded_init(3, name):
        model: nn.Module = getattr(transformers, class_name)(config)
    # Biases and tables start at 0 and norms at 1, where an exchange of two would not show.
    draw = generator(3, "noise", name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


def images_of(model: nn.Module) -> InputSpec:
    config: Any = model.config
    size = getattr(config, "vision_config", config).image_size
    height, width = (size, size) if isinstance(size, int) else size
    return InputSpec(3, height, width, (0.5,) * 3, (0.5,) * 3)


def batch(model: nn.Module, step: int = 0, size: int = 2) -> tuple[Tensor, Tensor]:
    spec = images_of(model)
    draw = generator(5, "batch", step)
    images = torch.randn(size, spec.channels, spec.height, spec.width, generator=draw)
    return images, torch.randint(0, 3, (size,), generator=draw)


def whole_step(model: nn.Module, images: Tensor, labels: Tensor) -> Step:
    """Compute with the whole model, and with its own loss where it has one."""
    model.zero_grad()
    images = images.clone().requires_grad_()
    teacher = type(model).__name__.endswith("WithTeacher")  # which takes no labels
    output = model(images) if teacher else model(images, labels=labels)
    loss = cross_entropy(output.logits, labels) if teacher else output.loss
    torch.autograd.backward(loss)
    assert images.grad is not None
    return Step(output.logits.detach(), loss.detach(), gradients_of(model), images.grad)


def gradients_of(*modules: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for module in modules
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def assert_close(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        error = (tensor - other[name]).abs().max().item()
        assert math.isfinite(error), name
        assert error <= 1e-5, f"{name}: {error}"


def named(state: State) -> dict[str, Tensor]:
    return {"hidden": state} if isinstance(state, Tensor) else state


def split_step(bottom: nn.Module, server: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One exchange as over the wire: the graph ends at the cut."""
    smashed = bottom(images)
    received = each(smashed, lambda tensor: tensor.detach().clone().requires_grad_())
    loss = cross_entropy(server(received), labels)
    torch.autograd.backward(loss)
    torch.autograd.backward(
        list(named(smashed).values()), [tensor.grad for tensor in named(received).values()]
    )
    return loss.detach()
