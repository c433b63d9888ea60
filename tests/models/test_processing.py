"""Images are processed as the model's own processor does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedsplit.data.loader import fitted
from fedsplit.models.processing import input_spec_of, processor_of
from fedsplit.models.stages import InputSpec

PROCESSORS: dict[str, dict[str, Any]] = {
    # As published with google/vit-base-patch16-224, facebook/deit-base-distilled-patch16-224 and
    # facebook/dinov2-base, at an eighth of their sizes.
    "ViTImageProcessor": {"size": {"height": 28, "width": 28}, "resample": 2},
    "DeiTImageProcessor": {
        "size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "crop_size": {"height": 28, "width": 28},
        "resample": 3,
    },
    "BitImageProcessor": {
        "size": {"shortest_edge": 32},
        "do_center_crop": True,
        "crop_size": {"height": 28, "width": 28},
        "resample": 3,
    },
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("shape", [(40, 56), (56, 40), (20, 31), (28, 28)])
def test_images_come_as_from_the_models_own_processor(name: str, shape: tuple[int, int]) -> None:
    """Break it: resize straight to the crop's size."""
    import transformers

    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    settings = {**PROCESSORS[name], "image_mean": mean, "image_std": std}
    spec = input_spec_of("x", settings, 3, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    own = getattr(transformers, f"{name}Pil", getattr(transformers, name))(**settings)
    theirs = torch.as_tensor(own(image, return_tensors="pt")["pixel_values"][0])

    ours = torch.from_numpy(np.asarray(fitted(image, spec)).copy()).permute(2, 0, 1) / 255
    ours = (ours - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert ours.shape == theirs.shape == (3, 28, 28)
    assert (ours - theirs).abs().max() < 1.5 / 255 / 0.4  # a rounding of one pixel step at most


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_is_written_reads_the_same(name: str) -> None:
    spec = input_spec_of("x", PROCESSORS[name], 3, 64)
    assert input_spec_of("x", processor_of(spec), 3, 64) == spec


def test_without_a_processor_it_is_the_models_size() -> None:
    assert input_spec_of("x", {}, 1, (6, 8)) == InputSpec(1, 6, 8, (0.5,), (0.5,))
    # An older one wrote a number; one without a crop may leave the size open.
    assert input_spec_of("x", {"size": 7}, 1, 5).height == 7
    assert input_spec_of("x", {"size": {"shortest_edge": 7}}, 1, 5).height == 5


def test_another_rescale_factor_goes_into_mean_and_deviation() -> None:
    spec = input_spec_of("x", {"rescale_factor": 2 / 255, "image_mean": 1.0}, 1, 5)
    assert spec.mean == pytest.approx((0.5,))
    assert spec.std == pytest.approx((0.25,))
