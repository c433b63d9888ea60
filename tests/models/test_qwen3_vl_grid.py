from __future__ import annotations

from typing import Any

import torch

from fedsplit.models.qwen3_vl_grid import image_means, pack_images, segments
from tests.models.families.qwen3_vl_toys import config_of


def test_images_are_packed_as_the_image_processor_does() -> None:
    """Break it: leave the patches in the order of rows."""
    from transformers import Qwen2VLImageProcessor

    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    vision_config: Any = config_of().vision_config
    patches, grid_thw = pack_images(images, vision_config)
    processor: Any = Qwen2VLImageProcessor
    asked = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    never = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    found = processor(**asked, **never)(images=list(images), return_tensors="pt")
    assert torch.equal(patches, found["pixel_values"])
    assert torch.equal(grid_thw, found["image_grid_thw"])
    assert grid_thw.tolist() == [[1, 4, 6], [1, 4, 6]]


def test_a_frame_is_a_segment() -> None:
    assert segments(torch.tensor([[1, 4, 6], [2, 2, 2]])).tolist() == [0, 24, 28, 32]


def test_means_are_over_each_images_own_tokens() -> None:
    tokens = torch.tensor([[1.0], [3.0], [10.0], [0.0], [2.0], [4.0]])
    grid_thw = torch.tensor([[1, 2, 4], [1, 2, 2], [3, 2, 2]])
    assert image_means(tokens, grid_thw, 2).tolist() == [[2.0], [10.0], [2.0]]
