"""Images are processed as the model's own library does, pixel by pixel."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fedsplit.data.loader import Images
from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models import input_spec, resolve
from fedsplit.models.processing import input_spec_of, processor_of

_STATISTICS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
_CROP = {"height": 28, "width": 28}
# As published for checkpoints of each family, at an eighth of their sizes.
PROCESSORS: dict[str, dict[str, Any]] = {
    "google/vit-base-patch16-224": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 28, "width": 28},
        "resample": 2,
    },
    "google/vit-base-patch16-224-in21k": {"feature_extractor_type": "ViTFeatureExtractor"}
    | {"size": 28, "do_resize": True},
    "facebook/deit-base-distilled-patch16-224": {
        "feature_extractor_type": "DeiTFeatureExtractor",
        "size": 32,
        "do_center_crop": True,
        "crop_size": 28,
        "resample": 3,
    },
    "facebook/dinov2-base": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 32},
        "do_center_crop": True,
        "crop_size": _CROP,
        "resample": 3,
    },
    "openai/clip-vit-base-patch32": {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 28,
        "do_center_crop": True,
        "crop_size": 28,
        "resample": 3,
    },
    "google/siglip-base-patch16-224": {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 28, "width": 28},
        "resample": 3,
    },
    "microsoft/beit-base-patch16-224": {
        "feature_extractor_type": "BeitFeatureExtractor",
        "size": 28,
        "do_center_crop": False,
        "crop_size": 28,
        "resample": 2,
    },
    # What is not said, the class says: to crop, and by which filter.
    "short": {
        "image_processor_type": "CLIPImageProcessorFast",
        "size": {"shortest_edge": 32},
        "crop_size": _CROP,
    },
    # Cropped as they are; smaller ones get a black margin.
    "as they are": {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": False,
        "do_center_crop": True,
        "crop_size": _CROP,
    },
    "nearest": {"image_processor_type": "ViTImageProcessor", "size": 28, "resample": 0},
}
# Height and width: wide, high, small, as it is, and margins whose half is between two pixels.
SHAPES = [(40, 56), (56, 40), (20, 31), (28, 28), (33, 50), (50, 37), (35, 32), (32, 37)]


def picture(shape: tuple[int, int], mode: str = "RGB") -> Image.Image:
    size = (*shape, 3) if mode == "RGB" else shape
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))


def ours(image: Image.Image, spec: InputSpec) -> Tensor:
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=2)}
    rows = datasets.Dataset.from_dict(
        {"image": [image], "label": [0]}, features=datasets.Features(columns)
    )
    images = Images(rows, image_column="image", label_column="label", spec=spec)
    return images.batch(torch.tensor([0]))[0][0]


def pixels_apart(one: Tensor, other: Tensor, spec: InputSpec) -> float:
    """Return the largest difference, in steps of an 8-bit pixel."""
    assert one.shape == other.shape
    return ((one - other).abs().amax(dim=(1, 2)) * torch.tensor(spec.std)).max().item() * 255


def of_directory(vit_directory: Path, directory: Path, processor: dict[str, Any]) -> InputSpec:
    (directory / "config.json").write_text((vit_directory / "config.json").read_text())
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return input_spec(str(directory))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_images_come_as_from_the_models_own_processor(
    name: str, mode: str, vit_directory: Path, tmp_path: Path
) -> None:
    """Break it: resize straight to the crop's size, or though told not to."""
    import transformers

    spec = of_directory(vit_directory, tmp_path, {**PROCESSORS[name], **_STATISTICS})
    loader: Any = transformers.AutoImageProcessor
    pillow, torchvision = (
        loader.from_pretrained(tmp_path, backend=backend) for backend in ("pil", "torchvision")
    )
    for shape in SHAPES:
        image = picture(shape, mode)
        found = ours(image, spec)
        whole = image.convert("RGB")
        theirs = torch.as_tensor(pillow(whole, return_tensors="pt")["pixel_values"][0])
        assert pixels_apart(found, theirs, spec) < 0.01, shape
        # torchvision's filters round otherwise, in pure noise by several steps; its nearest pixel
        # is another.
        theirs = torch.as_tensor(torchvision(whole, return_tensors="pt")["pixel_values"][0])
        assert (found - theirs).abs().mean() < 2 / 255 or name == "nearest", shape


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", ["vit_b_16", "vit_l_32", "vit_h_14"])
def test_images_come_as_from_torchvisions_own_transforms(name: str, mode: str) -> None:
    """Break it: round the corner of a crop down."""
    models: Any = pytest.importorskip("torchvision.models")

    transforms = models.get_model_weights(name).DEFAULT.transforms()
    spec = input_spec(f"torchvision:{name}")
    # 427 x 640 leaves a margin of 159, whose half lies nearer to the even 80.
    for shape in [(300, 257), (427, 640), (640, 427), (333, 500), (299, 301), (28, 28)]:
        image = picture(shape, mode)
        theirs = transforms(image.convert("RGB"))
        assert pixels_apart(ours(image, spec), theirs, spec) < 0.01, shape


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", ["vit_small_patch16_224", "vit_base_patch14_dinov2"])
def test_images_come_as_from_timms_own_transforms(name: str, mode: str) -> None:
    """Break it: round the corner of a crop down, or the edge up before it."""
    data = pytest.importorskip("timm.data")
    model = resolve(f"timm:{name}").skeleton(1)
    transforms = data.create_transform(**data.resolve_data_config({}, model=model))
    spec = input_spec(f"timm:{name}")
    for shape in [(300, 257), (501, 375), (640, 427), (333, 500), (28, 28)]:
        image = picture(shape, mode)
        theirs = transforms(image.convert("RGB"))
        assert pixels_apart(ours(image, spec), theirs, spec) < 0.01, shape


def test_colours_become_grey_before_all_else() -> None:
    """Break it: take the first channel."""
    spec = InputSpec(1, 28, 28, (0.2,), (0.3,))
    grey = picture((40, 56)).convert("L").resize((28, 28), Image.Resampling.BILINEAR)
    expected = (torch.from_numpy(np.array(grey))[None] / 255 - 0.2) / 0.3
    assert pixels_apart(ours(picture((40, 56)), spec), expected, spec) < 0.01


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"img_size": (16, 24)}, r"images of 16x24 cropped by 'center'"),
        ({"crop_mode": "border"}, r"images of 16x16 cropped by 'border'"),
        ({"crop_pct": 0}, r"crop_pct = 0, .* Give a number from 0\.05 to 2"),
        ({"crop_pct": -1.0}, r"crop_pct = -1\.0, the part of an image"),
        ({"crop_pct": "0.9"}, r"crop_pct = '0\.9', the part of an image"),
        ({"interpolation": "random"}, r"resized by 'random', which is none of nearest, "),
    ],
)
def test_what_timm_does_otherwise_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Break it: squeeze images that are not square."""
    models = pytest.importorskip("timm.models")
    known = {"input_size": (3, 16, 16), "crop_pct": 0.9, "interpolation": "bicubic"}
    known |= {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_mode": "center"}
    size = changes.pop("img_size", (16, 16))
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 2,
        "model_args": {"img_size": size, "patch_size": 8, "depth": 1, "embed_dim": 12},
        "pretrained_cfg": {**known, **changes},
    }
    assert models.is_model("vit_tiny_patch16_224")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"{said}.*preprocessor_config\.json"):
        input_spec(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text('{"do_resize": true}')
    assert (input_spec(str(tmp_path)).height, input_spec(str(tmp_path)).width) == size


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_is_written_reads_the_same(name: str) -> None:
    spec = input_spec_of("x", PROCESSORS[name], 3, 64)
    assert input_spec_of("x", processor_of(spec), 3, 64) == spec


def test_without_a_processor_it_is_the_models_size() -> None:
    assert input_spec_of("x", {}, 1, (6, 8)) == InputSpec(1, 6, 8, (0.5,), (0.5,))
    # An older one wrote a number; one without a crop may leave the size open.
    assert input_spec_of("x", {"size": 7}, 1, 5).height == 7
    assert input_spec_of("x", {"size": {"shortest_edge": 7}}, 1, 5).height == 5


def test_sizes_that_a_processor_leaves_become_the_models() -> None:
    """All images of a run have one size. Break it: leave it open."""
    spec = input_spec_of("x", {"do_resize": False, "size": {"shortest_edge": 7}}, 1, (6, 8))
    assert (spec.height, spec.width, spec.resize) == (6, 8, None)
    assert ours(picture((40, 56), "L"), spec).shape == (1, 6, 8)


def test_another_rescale_factor_goes_into_mean_and_deviation() -> None:
    spec = input_spec_of("x", {"rescale_factor": 2 / 255, "image_mean": 1.0}, 1, 5)
    assert spec.mean == pytest.approx((0.5,))
    assert spec.std == pytest.approx((0.25,))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"do_resize": "false"}, "do_resize = 'false'. Write true or false"),
        ({"do_center_crop": 1}, "do_center_crop = 1. Write true or false"),
        ({"do_normalize": "no"}, "do_normalize = 'no'. Write true or false"),
        ({"do_rescale": []}, "do_rescale = []. Write true or false"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order = True. The model takes BGR"),
        ({"size": "28"}, "size = '28'. Write height and width"),
        ({"size": [28, 28]}, "size = [28, 28]. Write height and width, or shortest_edge"),
        ({"size": {"longest_edge": 28}}, "size = {'longest_edge': 28}. Write height and width"),
        ({"size": {"height": 28}}, "size = {'height': 28}. Write height and width"),
        ({"do_center_crop": True, "crop_size": [4, 4]}, "crop_size = [4, 4]. Write height"),
        ({"image_mean": [True] * 3}, "image_mean [True, True, True]"),
        ({"image_std": [1e-40] * 3}, "image_std from 1e-06"),
        ({"image_mean": 1e30}, "numbers each, up to 1e+06"),
    ],
)
def test_what_would_be_left_out_without_a_word_is_refused(
    values: dict[str, Any], said: str
) -> None:
    """Break it: take a text for true, and a size of another form for none."""
    with pytest.raises(ModelError, match=re.escape(said)):
        input_spec_of("x", values, 3, 8)


@pytest.mark.parametrize(
    "values",
    [
        {"do_resize": False, "size": {"longest_edge": 28}},
        {"do_resize": None, "size": "28"},
        {"do_center_crop": False, "crop_size": [4, 4]},
        {"size": None, "crop_size": None, "do_flip_channel_order": False},
    ],
)
def test_what_is_not_used_may_be_anything(values: dict[str, Any]) -> None:
    spec = input_spec_of("x", values, 3, 8)
    assert (spec.height, spec.width, spec.resize) == (8, 8, None)
