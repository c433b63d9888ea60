"""DINOv3's ViT (Siméoni et al., arXiv:2508.10104) as our `DINOv3ViTForImageClassification`.

Stage 0 embeddings: images [B, C, H, W] -> [B, 1+R+N, D], class token at index 0, then R registers.
Stages 1..L blocks: [B, 1+R+N, D] -> [B, 1+R+N, D].
Stage L+1 head: layer norm, class token beside the mean of the patches [B, 2 D], classifier ->
logits [B, classes].

Positions are rotary: each block turns its queries and keys by angles that it computes from the size
of images alone, so stage 0 takes no other size. The mask token, which only pretraining uses, is
stage 0's: no gradient reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from fedsplit.models.dinov3_rotary import angles
from fedsplit.models.families.blocks import run_block
from fedsplit.models.family import Family
from fedsplit.models.image_sizes import CONFIG_KEY
from fedsplit.models.stages import Root, Stage


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `DINOv3ViTForImageClassification`."""
    config = model.config
    size = getattr(config, CONFIG_KEY, 0) or config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    grid = (height // config.patch_size, width // config.patch_size)
    paths = [f"dinov3.model.layer.{index}" for index in range(config.num_hidden_layers)]
    return [
        Stage("embeddings", ("dinov3.embeddings",), partial(_embed, (height, width))),
        *(
            Stage(f"block {number}", (path,), partial(_block, attrgetter(path), config, grid))
            for number, path in enumerate(paths, start=1)
        ),
        Stage(
            "head",
            ("dinov3.norm", "classifier"),
            partial(_head, 1 + config.num_register_tokens),
        ),
    ]


def _embed(size: tuple[int, int], root: Root, images: Tensor) -> Tensor:
    if images.shape[2:] != size:
        raise ValueError(
            f"Input image size ({images.shape[2]}x{images.shape[3]}) doesn't match model "
            f"({size[0]}x{size[1]}). Set model.image-size."
        )
    hidden: Tensor = root.dinov3.embeddings(images)
    return hidden


def _block(
    find_block: attrgetter[Any], config: Root, grid: tuple[int, int], root: Root, hidden: Tensor
) -> Tensor:
    turned = angles(config, grid, hidden)
    return run_block(find_block(root), hidden, position_embeddings=turned)


def _head(first_patch: int, root: Root, hidden: Tensor) -> Tensor:
    tokens = root.dinov3.norm(hidden)
    features = torch.cat([tokens[:, 0], tokens[:, first_patch:].mean(dim=1)], dim=1)
    logits: Tensor = root.classifier(features)
    return logits


FAMILY = Family(
    "dinov3",
    model_class="fedsplit.models.dinov3_classifier:DINOv3ViTForImageClassification",
    stages=stages,
    model_type="dinov3_vit",
    image_processor="ViTImageProcessor",
    size_step=lambda model: model.config.patch_size,
    unused_weights=("dinov3.embeddings.mask_token",),
)
