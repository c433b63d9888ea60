"""Qwen3-VL's vision tower as a classifier of images. Importing this imports transformers.

Qwen3-VL Technical Report (Bai et al., arXiv:2511.21631). The taps of DeepStack, which feed the
language model, are left out: nothing here would use them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLPreTrainedModel,
    Qwen3VLVisionModel,
    Qwen3VLVisionRotaryEmbedding,
)

from fedsplit.models.qwen3_vl_grid import image_means, pack_images


class Qwen3VLForImageClassification(Qwen3VLPreTrainedModel):  # type: ignore[no-untyped-call]
    """Vision tower, merger, mean over each image's merged tokens, linear classifier.

    Its keys are those of `Qwen3VLForConditionalGeneration` (``model.visual.``) and
    ``classifier.``, so `from_pretrained` takes the tower out of a checkpoint of the whole.

    Parameters
    ----------
    config : Qwen3VLConfig
        With `num_labels`. An `image_size` in it says which images fedsplit makes.
    """

    config_class = Qwen3VLConfig
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012 - as transformers declares it
        r"^model\.language_model\.",
        r"^lm_head\.",
        r"^model\.visual\.deepstack_merger_list\.",
    ]

    def __init__(self, config: Qwen3VLConfig) -> None:
        super().__init__(config)
        vision_config: Any = copy.copy(config.vision_config)
        vision_config.deepstack_visual_indexes = []
        self.model = nn.Module()
        self.model.visual = Qwen3VLVisionModel(vision_config)
        self.model.visual.rotary_pos_emb = _Rotary(vision_config)
        classes: Any = config.num_labels
        self.classifier = nn.Linear(vision_config.out_hidden_size, classes)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        pixel_values: Tensor,
        image_grid_thw: Tensor | None = None,
        labels: Tensor | None = None,
        **_: object,
    ) -> ImageClassifierOutput:
        """Classify images.

        Parameters
        ----------
        pixel_values : Tensor
            [B, C, H, W], H and W multiples of patch size x merge size; or, with `image_grid_thw`,
            patches of images of several sizes as the image processor packs them, [S, C T P P].
        image_grid_thw : Tensor, optional
            int64 [B, 3]: frames, rows and columns of patches of each image.
        labels : Tensor, optional
            int64 [B].

        Returns
        -------
        ImageClassifierOutput
            Logits [B, classes], and with labels the mean cross-entropy.
        """
        visual = self.model.visual
        if image_grid_thw is None:
            pixel_values, image_grid_thw = pack_images(pixel_values, visual.config)
        merged = visual(pixel_values, image_grid_thw.to(pixel_values.device)).pooler_output
        means = image_means(merged, image_grid_thw, visual.config.spatial_merge_size)
        logits: Tensor = self.classifier(means)
        loss = None if labels is None else cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


class _Rotary(Qwen3VLVisionRotaryEmbedding):
    """Without buffers, because an emptied model receives weights only."""

    attention_scaling = 1.0

    def __init__(self, config: Any) -> None:  # noqa: ANN401 - of transformers
        nn.Module.__init__(self)
        self.config = config

    @property
    def inv_freq(self) -> Tensor:  # type: ignore[override]
        with torch.device("cpu"):
            return self.compute_axial_rope_parameters(self.config)[0]
