"""DINOv3's ViT as a classifier of images. Importing this imports transformers.

DINOv3 (Siméoni et al., arXiv:2508.10104). transformers has no class for this.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import (
    DINOv3ViTModel,
    DINOv3ViTPreTrainedModel,
)

from fedsplit.models.dinov3_rotary import angles


class DINOv3ViTForImageClassification(DINOv3ViTPreTrainedModel):
    """Backbone, class token beside the mean of the patches, linear classifier.

    That is the classifier which DINOv3's authors publish, and that of DINOv2. The keys are those of
    `DINOv3ViTModel` after ``dinov3.``, and ``classifier.``.

    In training too, the positions are those of the image: `pos_embed_shift`, `pos_embed_jitter` and
    `pos_embed_rescale` are of pretraining, and blocks on two machines could not draw the same ones.

    Parameters
    ----------
    config : DINOv3ViTConfig
        With `num_labels`.
    """

    base_model_prefix = "dinov3"

    def __init__(self, config: DINOv3ViTConfig) -> None:
        super().__init__(config)
        backbone: Any = DINOv3ViTModel(config)
        backbone.rope_embeddings = _Rotary(config)
        self.dinov3 = backbone
        classes: Any = config.num_labels
        self.classifier = nn.Linear(2 * config.hidden_size, classes)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **_: object
    ) -> ImageClassifierOutput:
        """Classify images.

        Parameters
        ----------
        pixel_values : Tensor
            [B, C, H, W], H and W multiples of the patch size.
        labels : Tensor, optional
            int64 [B].

        Returns
        -------
        ImageClassifierOutput
            Logits [B, classes], and with labels the mean cross-entropy.
        """
        tokens = self.dinov3(pixel_values).last_hidden_state
        first_patch = 1 + self.config.num_register_tokens
        features = torch.cat([tokens[:, 0], tokens[:, first_patch:].mean(dim=1)], dim=1)
        logits: Tensor = self.classifier(features)
        loss = None if labels is None else cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


class _Rotary(nn.Module):
    """Without buffers, because no stage owns what all blocks read."""

    def __init__(self, config: DINOv3ViTConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine, [N, head width] each, of images [B, C, H, W]."""
        patch: Any = self.config.patch_size
        height, width = images.shape[2:]
        return angles(self.config, (height // patch, width // patch), images)
