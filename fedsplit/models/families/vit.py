"""ViT (Dosovitskiy et al., ICLR 2021) as `transformers.ViTForImageClassification`.

Also the encoder of a checkpoint of MAE (He et al., CVPR 2022), which is a ViT.

Stage 0 embeddings: images [B, C, H, W] -> [B, N+1, D], class token at index 0.
Stages 1..L blocks: [B, N+1, D] -> [B, N+1, D].
Stage L+1 head: layer norm, class token, classifier -> logits [B, classes].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from fedsplit.models.families.blocks import block_stages
from fedsplit.models.family import Family
from fedsplit.models.image_sizes import embed, interpolates, patch_size
from fedsplit.models.stages import Root, Stage


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `ViTForImageClassification`."""
    return [
        Stage("embeddings", ("vit.embeddings",), partial(_embed, interpolates(model))),
        # transformers moved the blocks from vit.encoder.layer to vit.layers.
        *block_stages(model, "vit.layers", "vit.encoder.layer"),
        Stage("head", ("vit.layernorm", "classifier"), _head),
    ]


def _embed(interpolate: bool, root: Root, images: Tensor) -> Tensor:
    embeddings = root.vit.embeddings
    # The whole model casts its input too: images stay float32 in a bfloat16 model.
    images = images.to(embeddings.cls_token.dtype)
    hidden: Tensor = embed(embeddings, images, interpolate=interpolate)
    return hidden


def _head(root: Root, hidden: Tensor) -> Tensor:
    logits: Tensor = root.classifier(root.vit.layernorm(hidden)[:, 0])
    return logits


FAMILY = Family(
    "vit",
    model_class="transformers.models.vit.modeling_vit:ViTForImageClassification",
    stages=stages,
    model_type="vit",
    ignored_keys=(
        *("pooler.", "vit.pooler."),
        # of pretraining with masked images, MAE's too
        *("decoder.", "embeddings.mask_token", "vit.embeddings.mask_token"),
    ),
    image_processor="ViTImageProcessor",
    size_step=patch_size,
)
