"""SigLIP's vision model (Zhai et al., ICCV 2023) as `transformers.SiglipForImageClassification`.

Stage 0 embeddings: images [B, C, H, W] -> [B, N, D]; there is no class token.
Stages 1..L blocks: [B, N, D] -> [B, N, D].
Stage L+1 head: layer norm, mean of the patches, classifier -> logits [B, classes]. It owns the
attention pooling of SigLIP's own head too, if there is one: no gradient reaches it.
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
    """List the stages of a `SiglipForImageClassification`."""
    pooling = ("vision_model.head",) if hasattr(model.vision_model, "head") else ()
    return [
        Stage("embeddings", ("vision_model.embeddings",), partial(_embed, interpolates(model))),
        *block_stages(model, "vision_model.encoder.layers", attention_mask=None),
        Stage("head", ("vision_model.post_layernorm", *pooling, "classifier"), _head),
    ]


def _embed(interpolate: bool, root: Root, images: Tensor) -> Tensor:
    embeddings = root.vision_model.embeddings
    hidden: Tensor = embed(embeddings, images, interpolate=interpolate)
    return hidden


def _head(root: Root, hidden: Tensor) -> Tensor:
    logits: Tensor = root.classifier(root.vision_model.post_layernorm(hidden).mean(dim=1))
    return logits


FAMILY = Family(
    "siglip",
    model_class="transformers.models.siglip.modeling_siglip:SiglipForImageClassification",
    stages=stages,
    model_type="siglip",
    ignored_keys=(
        "text_model.",
        "logit_scale",
        "logit_bias",
        "vision_model.embeddings.position_ids",  # older checkpoints: 0, 1, 2, ...
    ),
    image_processor="ViTImageProcessor",
    size_step=patch_size,
    unused_weights=("vision_model.head.",),
)
