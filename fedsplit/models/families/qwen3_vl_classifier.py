"""Qwen3-VL's vision tower (Bai et al., arXiv:2511.21631) as a classifier of images.

Stage 0 patch embedding: images [B, C, H, W], or a dict of packed ``pixel_values`` and
``image_grid_thw``, -> ``hidden`` [S, D] and ``grid_thw`` [B, 3].
Stages 1..L vision blocks: the same.
Stage L+1 head: merger, mean over each image's merged tokens, classifier -> logits [B, classes].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter

from torch import Tensor

from fedsplit.boundary import State
from fedsplit.models.families import qwen3_vl_vision as vision
from fedsplit.models.family import Family
from fedsplit.models.qwen3_vl_grid import Resampling, image_means, pack_images, resampling_of
from fedsplit.models.stages import Root, Stage


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `Qwen3VLForImageClassification`."""
    visual = model.model.visual
    embed = partial(_embed, visual.config, resampling_of(visual))
    chain = [Stage("patch embedding", vision.EMBEDDINGS, embed)]
    for index in range(len(visual.blocks)):
        path = f"model.visual.blocks.{index}"
        run = partial(vision.block, attrgetter(path))
        chain.append(Stage(f"vision block {index + 1}", (path,), run))
    head = partial(_head, visual.config.spatial_merge_size)
    return [*chain, Stage("head", ("model.visual.merger", "classifier"), head)]


def _embed(config: Root, resampling: Resampling, root: Root, images: State) -> State:
    if isinstance(images, Tensor):
        return vision.embed(root, resampling, *pack_images(images, config))
    return vision.embed(root, resampling, images["pixel_values"], images["image_grid_thw"])


def _head(merge: int, root: Root, state: dict[str, Tensor]) -> Tensor:
    merged = root.model.visual.merger(state["hidden"])
    logits: Tensor = root.classifier(image_means(merged, state["grid_thw"], merge))
    return logits


FAMILY = Family(
    "qwen3-vl vision",
    model_class="fedsplit.models.qwen3_vl_classifier:Qwen3VLForImageClassification",
    stages=stages,
    model_type="qwen3_vl",
    ignored_keys=("model.language_model.", "lm_head.", "model.visual.deepstack_merger_list."),
    image_processor="ViTImageProcessor",
    image_shape=vision.image_shape,
    size_step=vision.size_step,
)
