"""transformers' SigLIP2 as a whole that takes images, by the library's own image processor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.siglip2 import modeling_siglip2
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

_Whole: Any = modeling_siglip2.Siglip2ForImageClassification


class Siglip2ForImageClassification(_Whole):  # type: ignore[misc]
    def forward(self, images: Tensor, **others: Any) -> Any:  # noqa: ANN401
        patch = self.vision_model.embeddings.patch_size
        shapes = [[image.shape[1] // patch, image.shape[2] // patch] for image in images]
        return super().forward(
            pixel_values=torch.stack([convert_image_to_patches(image, patch) for image in images]),
            spatial_shapes=torch.tensor(shapes),
            **others,
        )
