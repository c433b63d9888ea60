"""Swin (Liu et al., ICCV 2021) and Swin V2 (CVPR 2022) as `torchvision.models.SwinTransformer`.

The state is a map [B, h, w, D], as in the family of transformers' Swin.

Stage 0 embeddings: images [B, 3, H, W] -> [B, h, w, D].
Every block: [B, h, w, D] -> [B, h, w, D].
Every downsample, a stage of its own after the blocks of one resolution but the last:
[B, h, w, D] -> [B, ceil(h / 2), ceil(w / 2), 2 D].
The head: layer norm, mean of all places, linear -> logits [B, classes].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from fedsplit.models.family import Family
from fedsplit.models.stages import Root, Stage


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `SwinTransformer`."""
    chain = [Stage("embeddings", ("features.0",), _embed)]
    num_blocks = num_downsamples = 0
    for index, module in enumerate(model.features[1:], start=1):
        if isinstance(module, nn.Sequential):
            paths = [f"features.{index}.{block}" for block in range(len(module))]
            names = [f"block {num_blocks + number}" for number in range(1, len(paths) + 1)]
            num_blocks += len(paths)
        else:
            num_downsamples += 1
            paths, names = [f"features.{index}"], [f"downsample {num_downsamples}"]
        for name, path in zip(names, paths, strict=True):
            chain.append(Stage(name, (path,), partial(_run, attrgetter(path))))
    return [*chain, Stage("head", ("norm", "permute", "avgpool", "flatten", "head"), _head)]


def _embed(root: Root, images: Tensor) -> Tensor:
    patches = getattr(root.features, "0")
    # Images stay float32 in a bfloat16 model, as in the other families.
    hidden: Tensor = patches(images.to(patches[0].weight.dtype))
    return hidden


def _run(find_module: attrgetter[Any], root: Root, state: Tensor) -> Tensor:
    output: Tensor = find_module(root)(state)
    return output


def _head(root: Root, state: Tensor) -> Tensor:
    pooled = root.flatten(root.avgpool(root.permute(root.norm(state))))
    logits: Tensor = root.head(pooled)
    return logits


FAMILY = Family(
    "torchvision swin",
    model_class="torchvision.models.swin_transformer:SwinTransformer",
    stages=stages,
    model_type="torchvision-swin",
    head=("head.",),
    library="torchvision_swin",
    size_step=lambda model: max(model.features[0][0].stride),  # no position is absolute
)
