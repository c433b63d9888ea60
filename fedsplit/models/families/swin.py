"""Swin (Liu et al., ICCV 2021) as `transformers.SwinForImageClassification`.

Also Swin V2 (Liu et al., CVPR 2022) as `Swinv2ForImageClassification`.

The state is a map [B, h, w, D], so that its size needs no words: h and w in patches.

Stage 0 embeddings: images [B, C, H, W] -> [B, h, w, D].
Every block: [B, h, w, D] -> [B, h, w, D].
Every downsample, a stage of its own after the blocks of one resolution but the last:
[B, h, w, D] -> [B, ceil(h / 2), ceil(w / 2), 2 D].
The head: layer norm, mean of all places, classifier -> logits [B, classes].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from torch import Tensor

from fedsplit.models.families.blocks import run_block
from fedsplit.models.family import Family
from fedsplit.models.image_sizes import embed, interpolates, patch_size
from fedsplit.models.stages import Root, Stage


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `SwinForImageClassification`."""
    return _stages(model, "swin")


def stages_v2(model: Root) -> Sequence[Stage]:
    """List the stages of a `Swinv2ForImageClassification`."""
    return _stages(model, "swinv2")


def _stages(model: Root, base: str) -> list[Stage]:
    embed_images = partial(_embed, base, interpolates(model))
    chain = [Stage("embeddings", (f"{base}.embeddings",), embed_images)]
    num_blocks = 0
    for level, layer in enumerate(getattr(model, base).encoder.layers):
        place = f"{base}.encoder.layers.{level}"
        for index in range(len(layer.blocks)):
            num_blocks += 1
            path = f"{place}.blocks.{index}"
            chain.append(Stage(f"block {num_blocks}", (path,), partial(_block, attrgetter(path))))
        if layer.downsample is not None:
            path = f"{place}.downsample"
            run = partial(_downsample, attrgetter(path))
            chain.append(Stage(f"downsample {level + 1}", (path,), run))
    owned = (f"{base}.layernorm", f"{base}.pooler", "classifier")
    return [*chain, Stage("head", owned, partial(_head, base))]


def _embed(base: str, interpolate: bool, root: Root, images: Tensor) -> Tensor:
    embeddings = getattr(root, base).embeddings
    images = images.to(embeddings.norm.weight.dtype)
    hidden, size = embed(embeddings, images, interpolate=interpolate)
    result: Tensor = hidden.unflatten(1, size)
    return result


def _block(find_block: attrgetter[Any], root: Root, state: Tensor) -> Tensor:
    height, width = state.shape[1:3]
    hidden = run_block(find_block(root), state.flatten(1, 2), input_dimensions=(height, width))
    return hidden.reshape(len(state), height, width, -1)


def _downsample(find: attrgetter[Any], root: Root, state: Tensor) -> Tensor:
    height, width = state.shape[1:3]
    hidden: Tensor = find(root)(state.flatten(1, 2), (height, width))
    return hidden.reshape(len(state), (height + 1) // 2, (width + 1) // 2, -1)


def _head(base: str, root: Root, state: Tensor) -> Tensor:
    swin = getattr(root, base)
    hidden = swin.layernorm(state.flatten(1, 2))
    pooled = swin.pooler(hidden.transpose(1, 2)).flatten(1)
    logits: Tensor = root.classifier(pooled)
    return logits


FAMILY = Family(
    "swin",
    model_class="transformers.models.swin.modeling_swin:SwinForImageClassification",
    stages=stages,
    model_type="swin",
    ignored_keys=("decoder.", "embeddings.mask_token", "swin.embeddings.mask_token"),
    image_processor="ViTImageProcessor",
    size_step=patch_size,
)
V2 = Family(
    "swin v2",
    model_class="transformers.models.swinv2.modeling_swinv2:Swinv2ForImageClassification",
    stages=stages_v2,
    model_type="swinv2",
    ignored_keys=("decoder.", "embeddings.mask_token", "swinv2.embeddings.mask_token"),
    image_processor="ViTImageProcessor",
    size_step=patch_size,
)
