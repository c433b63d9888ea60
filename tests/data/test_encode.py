from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from fedsplit.data.decode import decode
from fedsplit.data.encode import encode
from fedsplit.errors import DataError
from tests.data.pictures import picture
from tests.data.strangers import EPS


def _here() -> str:
    return "Image 7"


def _decoded(png: bytes, channels: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = decode({"bytes": png, "path": None}, place=_here, channels=channels)
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_an_image_decodes_as_if_it_had_never_been_encoded(mode: str) -> None:
    """Break it: write JPEGs."""
    image = picture(3, "RGB", 8).convert(mode)
    png = encode(image, place=_here)
    with Image.open(BytesIO(png)) as again:
        expected = np.asarray(image.convert("RGB"))
        if mode in ("L", "RGB", "CMYK", "YCbCr", "HSV", "1", "P"):
            assert (np.asarray(again.convert("RGB")) == expected).all()
    assert (_decoded(png) == expected).all()


@pytest.mark.parametrize("opened", [lambda image: image, lambda image: image.convert("RGB")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_file_is(
    orientation: int, opened: Callable[[Image.Image], Image.Image]
) -> None:
    """Else a run learns sideways what `fedsplit predict` sees upright. Break it: drop `upright`."""
    file = BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture(3, "RGB", 8).crop((0, 0, 8, 5)).save(file, "PNG", exif=exif)
    with Image.open(file) as photo:
        of_object = _decoded(encode(opened(photo), place=_here))
    assert (of_object == _decoded(file.getvalue())).all()


def test_transparency_and_16_bits_stay() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert (_decoded(encode(clear, place=_here)) == 255).all()  # on a white background
    wide = Image.fromarray(np.array([[0, 65535], [257, 32896]], dtype=np.uint16))
    assert _decoded(encode(wide, place=_here), channels=1).tolist() == [[0, 255], [1, 128]]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_floats_from_0_to_1_are_the_bytes_that_they_were_made_of(dtype: str) -> None:
    """What torchvision's ToTensor does is undone. Break it: cut the decimals off, don't round."""
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    scaled = (pixels.double() / 255).to(getattr(torch, dtype))
    if dtype == "bfloat16":  # it has 8 bits for all of 0 to 1
        assert np.abs(_decoded(encode(scaled, place=_here), 1) - pixels[0].numpy()).max() <= 255
        return
    assert (_decoded(encode(scaled, place=_here), 1) == pixels[0].numpy()).all()


def test_colours_of_a_tensor_stay_apart() -> None:
    pixels = torch.stack([torch.full((4, 6), value, dtype=torch.uint8) for value in (10, 20, 30)])
    decoded = _decoded(encode(pixels, place=_here))
    assert decoded.shape == (4, 6, 3)
    assert decoded[0, 0].tolist() == [10, 20, 30]
    assert (_decoded(encode(pixels.requires_grad_(False), place=_here)) == decoded).all()
    weights = torch.full((1, 2, 2), 0.5, requires_grad=True)
    assert (_decoded(encode(weights, place=_here), 1) == 128).all()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.zeros(8, 8), r"shape \[8, 8\]\. Return \[C, H, W\].*unsqueeze\(0\)"),
        (torch.zeros(8, 8, 3), r"shape \[8, 8, 3\].*permute\(2, 0, 1\)"),
        (torch.zeros(4, 8, 8), r"shape \[4, 8, 8\].*1 channel \(grey\) or 3"),
        (torch.zeros(1, 3, 8, 8), r"shape \[1, 3, 8, 8\]"),
        (torch.zeros(3, 0, 8), r"shape \[3, 0, 8\]"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "a tensor of int64.*Return uint8, or float"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), "a tensor of bool"),
        (torch.full((1, 2, 2), 255.0), "values from 255 to 255.*Leave out Normalize"),
        (torch.tensor([[[-0.5, 0.5]]]), r"values from -0\.5 to 0\.5"),
        (torch.tensor([[[0.5, float("nan")]]]), "values from nan to nan"),
        (
            np.zeros((8, 8), dtype=np.uint8),
            "of the type ndarray, not an image. Return a Pillow image",
        ),
        ("cat.png", "of the type str, not an image"),
        (None, "of the type NoneType, not an image"),
        (Image.new("F", (2, 2)), "Pillow's mode 'F'.*Convert it to 'L' or 'RGB'"),
        (Image.new("I", (2, 2)), "Pillow's mode 'I'"),
        (Image.new("LAB", (2, 2)), "Pillow's mode 'LAB'"),
    ],
)
def test_what_is_no_image_is_refused_with_its_value(image: object, said: str) -> None:
    with pytest.raises(DataError, match=f"^Image 7 (is|has).*{said}"):
        encode(image, place=_here)


def test_a_file_that_breaks_when_it_is_read_is_refused() -> None:
    """Pillow opens files lazily. Break it: let what Pillow raises pass."""
    file = BytesIO()
    picture(1, size=64).save(file, "PNG")
    with (
        Image.open(BytesIO(file.getvalue()[:-900])) as broken,
        pytest.raises(DataError, match=r"Image 7 cannot be read \(\w+: .*\)\. Remove or repair it"),
    ):
        encode(broken, place=_here)


def test_an_image_of_a_format_that_starts_a_program_is_not_decoded(tmp_path: Path) -> None:
    """Break it: save whatever Pillow has opened; this decodes it, with Ghostscript."""
    (tmp_path / "a.png").write_bytes(EPS)
    with Image.open(tmp_path / "a.png") as image, pytest.raises(DataError, match="is EPS"):
        encode(image, place=_here)
