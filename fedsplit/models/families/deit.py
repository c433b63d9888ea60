"""DeiT (Touvron et al., ICML 2021) as transformers' `DeiTForImageClassification`.

Also `DeiTForImageClassificationWithTeacher`, whose head has two classifiers: a checkpoint's
`architectures` says which of the two it is.

Stage 0 embeddings: images [B, C, H, W] -> [B, N+2, D], class token at index 0, then the
distillation token.
Stages 1..L blocks: [B, N+2, D] -> [B, N+2, D].
Stage L+1 head: layer norm, class token, classifier -> logits [B, classes]; with a teacher the
mean of the class token's logits and the distillation token's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from fedsplit.models.families.blocks import block_stages
from fedsplit.models.family import Family
from fedsplit.models.image_sizes import embed, interpolates, patch_size
from fedsplit.models.stages import Root, Stage

_MODULE = "transformers.models.deit.modeling_deit"
# Keys that checkpoints of its other heads hold.
_UNUSED = ("pooler.", "deit.pooler.", "decoder.", "embeddings.mask_token")


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `DeiTForImageClassification`."""
    return [*_trunk(model), Stage("head", ("deit.layernorm", "classifier"), _head)]


def stages_with_teacher(model: Root) -> Sequence[Stage]:
    """List the stages of a `DeiTForImageClassificationWithTeacher`."""
    paths = ("deit.layernorm", "cls_classifier", "distillation_classifier")
    return [*_trunk(model), Stage("head", paths, _head_with_teacher)]


def _trunk(model: Root) -> list[Stage]:
    return [
        Stage("embeddings", ("deit.embeddings",), partial(_embed, interpolates(model))),
        *block_stages(model, "deit.layers", "deit.encoder.layer"),
    ]


def _embed(interpolate: bool, root: Root, images: Tensor) -> Tensor:
    embeddings = root.deit.embeddings
    images = images.to(embeddings.cls_token.dtype)
    hidden: Tensor = embed(embeddings, images, interpolate=interpolate)
    return hidden


def _head(root: Root, hidden: Tensor) -> Tensor:
    logits: Tensor = root.classifier(root.deit.layernorm(hidden)[:, 0])
    return logits


def _head_with_teacher(root: Root, hidden: Tensor) -> Tensor:
    tokens = root.deit.layernorm(hidden)
    both: Tensor = root.cls_classifier(tokens[:, 0]) + root.distillation_classifier(tokens[:, 1])
    return both / 2


FAMILY = Family(
    "deit",
    model_class=f"{_MODULE}:DeiTForImageClassification",
    stages=stages,
    model_type="deit",
    ignored_keys=(*_UNUSED, "deit.embeddings.mask_token"),
    image_processor="ViTImageProcessor",
    size_step=patch_size,
)
WITH_TEACHER = Family(
    "deit with teacher",
    model_class=f"{_MODULE}:DeiTForImageClassificationWithTeacher",
    stages=stages_with_teacher,
    model_type="deit",
    head=("cls_classifier.", "distillation_classifier."),
    ignored_keys=_UNUSED,
    image_processor="ViTImageProcessor",
    size_step=patch_size,
)
