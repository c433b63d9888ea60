"""ViT (Dosovitskiy et al., ICLR 2021) as `torchvision.models.VisionTransformer`.

Stage 0 embeddings: images [B, 3, H, W] -> [B, N+1, D], class token at index 0.
Stages 1..L blocks: [B, N+1, D] -> [B, N+1, D].
Stage L+1 head: layer norm, class token, heads -> logits [B, classes].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.models.family import Family
from fedsplit.models.stages import Root, Stage

# Two of these are lone parameters, of the model and of its encoder.
_EMBEDDINGS = ("conv_proj", "class_token", "encoder.pos_embedding", "encoder.dropout")


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `VisionTransformer`.

    Raises
    ------
    ModelError
        If it begins with convolutions and batch norms, or has no blocks.
    """
    if not isinstance(model.conv_proj, nn.Conv2d):
        # The running statistics of a batch norm are no weights, and belong to no one client.
        raise ModelError(
            "This VisionTransformer has a convolutional stem (conv_stem_configs), which cannot be "
            "split. Use one whose patches are embedded by a single convolution."
        )
    paths = [f"encoder.layers.{name}" for name, _ in model.encoder.layers.named_children()]
    if not paths:
        raise ModelError("This VisionTransformer has no blocks. Use num_layers of at least 1.")
    blocks = [
        Stage(f"block {number}", (path,), partial(_block, attrgetter(path)))
        for number, path in enumerate(paths, start=1)
    ]
    return [
        Stage("embeddings", _EMBEDDINGS, _embed),
        *blocks,
        Stage("head", ("encoder.ln", "heads"), _head),
    ]


def _embed(root: Root, images: Tensor) -> Tensor:
    # Images stay float32 in a bfloat16 model, as in the other families.
    patches = root.conv_proj(images.to(root.conv_proj.weight.dtype)).flatten(2).transpose(1, 2)
    token = root.class_token.expand(len(images), -1, -1)
    hidden: Tensor = root.encoder.dropout(
        torch.cat([token, patches], dim=1) + root.encoder.pos_embedding
    )
    return hidden


def _block(find_block: attrgetter[Any], root: Root, hidden: Tensor) -> Tensor:
    output: Tensor = find_block(root)(hidden)
    return output


def _head(root: Root, hidden: Tensor) -> Tensor:
    logits: Tensor = root.heads(root.encoder.ln(hidden)[:, 0])
    return logits


FAMILY = Family(
    "torchvision vit",
    model_class="torchvision.models.vision_transformer:VisionTransformer",
    stages=stages,
    model_type="torchvision-vit",
    head=("heads.head.",),
    library="torchvision",
    size_step=lambda model: model.patch_size,
)
