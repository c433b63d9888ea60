"""CLIP's vision model (Radford et al., ICML 2021) as `transformers.CLIPForImageClassification`.

Stage 0 embeddings and the layer norm after them: images [B, C, H, W] -> [B, N+1, D], class token
at index 0.
Stages 1..L blocks: [B, N+1, D] -> [B, N+1, D].
Stage L+1 head: mean of the patches, classifier -> logits [B, classes]. It owns the vision model's
last layer norm too, which only CLIP's own head uses: no gradient reaches it.
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
    """List the stages of a `CLIPForImageClassification`."""
    embeddings = ("vision_model.embeddings", "vision_model.pre_layrnorm")
    return [
        Stage("embeddings", embeddings, partial(_embed, interpolates(model))),
        *block_stages(model, "vision_model.encoder.layers", attention_mask=None),
        Stage("head", ("vision_model.post_layernorm", "classifier"), _head),
    ]


def _embed(interpolate: bool, root: Root, images: Tensor) -> Tensor:
    vision = root.vision_model
    embedded = embed(vision.embeddings, images, interpolate=interpolate)
    hidden: Tensor = vision.pre_layrnorm(embedded)
    return hidden


def _head(root: Root, hidden: Tensor) -> Tensor:
    logits: Tensor = root.classifier(hidden[:, 1:].mean(dim=1))
    return logits


FAMILY = Family(
    "clip",
    model_class="transformers.models.clip.modeling_clip:CLIPForImageClassification",
    stages=stages,
    model_type="clip",
    ignored_keys=(
        "text_model.",
        "text_projection.",
        "visual_projection.",
        "logit_scale",
        "vision_model.embeddings.position_ids",  # older checkpoints: 0, 1, 2, ...
    ),
    image_processor="ViTImageProcessor",
    size_step=patch_size,
    unused_weights=("vision_model.post_layernorm.",),
)
