"""Swin (Liu et al., ICCV 2021) as `transformers.SwinForImageClassification`.

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
    chain = [Stage("embeddings", ("swin.embeddings",), partial(_embed, interpolates(model)))]
    num_blocks = 0
    for level, layer in enumerate(model.swin.encoder.layers):
        place = f"swin.encoder.layers.{level}"
        for index in range(len(layer.blocks)):
            num_blocks += 1
            path = f"{place}.blocks.{index}"
            chain.append(Stage(f"block {num_blocks}", (path,), partial(_block, attrgetter(path))))
        if layer.downsample is not None:
            path = f"{place}.downsample"
            run = partial(_downsample, attrgetter(path))
            chain.append(Stage(f"downsample {level + 1}", (path,), run))
    return [*chain, Stage("head", ("swin.layernorm", "swin.pooler", "classifier"), _head)]


def _embed(interpolate: bool, root: Root, images: Tensor) -> Tensor:
    embeddings = root.swin.embeddings
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


def _head(root: Root, state: Tensor) -> Tensor:
    hidden = root.swin.layernorm(state.flatten(1, 2))
    pooled = root.swin.pooler(hidden.transpose(1, 2)).flatten(1)
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
