"""DINOv2 (Oquab et al., TMLR 2024) as transformers' `Dinov2ForImageClassification`.

Also `Dinov2WithRegistersForImageClassification`, with R register tokens after the class token
(Darcet et al., ICLR 2024); R is 0 without them.

Stage 0 embeddings: images [B, C, H, W] -> [B, 1+R+N, D], class token at index 0.
Stages 1..L blocks: [B, 1+R+N, D] -> [B, 1+R+N, D].
Stage L+1 head: layer norm, class token beside the mean of the patches [B, 2 D], classifier ->
logits [B, classes].

The mask token, which only pretraining uses, is stage 0's: no gradient reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from fedsplit.models.families.blocks import block_stages
from fedsplit.models.family import Family
from fedsplit.models.image_sizes import patch_size
from fedsplit.models.stages import Root, Stage


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `Dinov2ForImageClassification`."""
    return _stages(model, "dinov2", num_registers=0)


def stages_with_registers(model: Root) -> Sequence[Stage]:
    """List the stages of a `Dinov2WithRegistersForImageClassification`."""
    return _stages(model, "dinov2_with_registers", num_registers=model.config.num_register_tokens)


def _stages(model: Root, base: str, num_registers: int) -> list[Stage]:
    head = partial(_head, base, 1 + num_registers)
    return [
        Stage("embeddings", (f"{base}.embeddings",), partial(_embed, base)),
        *block_stages(model, f"{base}.encoder.layer"),
        Stage("head", (f"{base}.layernorm", "classifier"), head),
    ]


def _embed(base: str, root: Root, images: Tensor) -> Tensor:
    embeddings = getattr(root, base).embeddings
    hidden: Tensor = embeddings(images.to(embeddings.cls_token.dtype))
    return hidden


def _head(base: str, first_patch: int, root: Root, hidden: Tensor) -> Tensor:
    tokens = getattr(root, base).layernorm(hidden)
    features = torch.cat([tokens[:, 0], tokens[:, first_patch:].mean(dim=1)], dim=1)
    logits: Tensor = root.classifier(features)
    return logits


FAMILY = Family(
    "dinov2",
    model_class="transformers.models.dinov2.modeling_dinov2:Dinov2ForImageClassification",
    stages=stages,
    model_type="dinov2",
    image_processor="ViTImageProcessor",
    size_step=patch_size,  # it always interpolates its positions
    unused_weights=("dinov2.embeddings.mask_token",),
)
WITH_REGISTERS = Family(
    "dinov2 with registers",
    model_class=(
        "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers:"
        "Dinov2WithRegistersForImageClassification"
    ),
    stages=stages_with_registers,
    model_type="dinov2_with_registers",
    image_processor="ViTImageProcessor",
    size_step=patch_size,  # it always interpolates its positions
    unused_weights=("dinov2_with_registers.embeddings.mask_token",),
)
