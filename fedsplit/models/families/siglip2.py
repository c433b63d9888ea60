"""SigLIP2's vision model (Tschannen et al., arXiv:2502.14786), the NaFlex variant.

That is `transformers.Siglip2ForImageClassification`. Checkpoints of one resolution, such as
siglip2-base-patch16-224, are models of SigLIP to transformers, and here.

The class itself takes patches of images of any shape. Images of a run have one size, so stage 0
cuts them into patches as the image processor does, and no patch is padding.

Stage 0 embeddings: images [B, C, H, W] -> [B, N, D]; there is no class token.
Stages 1..L blocks: [B, N, D] -> [B, N, D].
Stage L+1 head: layer norm, mean of the patches, classifier -> logits [B, classes]. It owns the
attention pooling of SigLIP2's own head too, if there is one: no gradient reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedsplit.models.families import siglip
from fedsplit.models.family import Family
from fedsplit.models.image_sizes import CONFIG_KEY
from fedsplit.models.stages import Root, Stage


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `Siglip2ForImageClassification`."""
    _, *others = siglip.stages(model)
    return [Stage("embeddings", ("vision_model.embeddings",), _embed), *others]


def image_shape(config: Root) -> tuple[int, int, int]:
    """Return channels, height and width: a square with a patch for each learned position."""
    vision = config.vision_config
    side = math.isqrt(vision.num_patches) * vision.patch_size
    size = getattr(config, CONFIG_KEY, 0) or side
    return vision.num_channels, size, size


def to_patches(images: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Return patches [B, h w, P P C] and int64 [B, 2], h and w of each image.

    Parameters
    ----------
    images : Tensor
        [B, C, H, W].
    patch : int
        P, in pixels.
    """
    height, width = images.shape[2] // patch, images.shape[3] // patch
    cells = images.reshape(len(images), -1, height, patch, width, patch)
    patches = cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    # On the CPU: the embeddings read each number.
    return patches, torch.tensor([[height, width]] * len(images), device="cpu")


def _embed(root: Root, images: Tensor) -> Tensor:
    embeddings = root.vision_model.embeddings
    hidden: Tensor = embeddings(*to_patches(images, embeddings.patch_size))
    return hidden


FAMILY = Family(
    "siglip2",
    model_class="transformers.models.siglip2.modeling_siglip2:Siglip2ForImageClassification",
    stages=stages,
    model_type="siglip2",
    ignored_keys=("text_model.", "logit_scale", "logit_bias"),
    image_processor="Siglip2ImageProcessor",
    image_shape=image_shape,
    size_step=lambda model: model.config.vision_config.patch_size,  # it always interpolates
    unused_weights=("vision_model.head.",),
)
