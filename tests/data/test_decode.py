from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsplit.data.decode import decode
from fedsplit.errors import DataError
from tests.data.pictures import picture

RAMP = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)


def stored(image: Image.Image, path: Path) -> dict[str, object]:
    image.save(path)
    return {"bytes": None, "path": str(path)}


def place(row: int = 0, column: str = "image") -> Callable[[], str]:
    return lambda: f"row {row}, column '{column}'"


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_to_8(tmp_path: Path, suffix: str, channels: int) -> None:
    file = stored(Image.fromarray(RAMP), tmp_path / f"ramp.{suffix}")
    image = decode(file, place=place(), channels=channels)
    assert image.mode == ("L" if channels == 1 else "RGB")
    pixels = np.asarray(image).reshape(8, 8, channels)
    expected = np.round(RAMP / 257).astype(np.uint8)
    for channel in range(channels):
        assert np.array_equal(pixels[..., channel], expected)
    assert len(np.unique(pixels)) == 64


def test_a_transparent_level_of_16_bits_is_put_on_the_background(tmp_path: Path) -> None:
    """Break it: scale to 8 bits first, and forget which level is transparent."""
    file = tmp_path / "level.png"
    Image.fromarray(RAMP).save(file, transparency=int(RAMP[0, 0]))
    image = decode({"bytes": None, "path": str(file)}, place=place(), channels=1)
    expected = np.round(RAMP / 257).astype(np.uint8)
    expected[0, 0] = 255
    assert np.array_equal(np.asarray(image), expected)


def test_16_bits_of_the_other_byte_order() -> None:
    data = RAMP.astype(">u2").tobytes()
    image = Image.frombytes("I;16B", (8, 8), data)
    tiff = io.BytesIO()
    image.save(tiff, "TIFF")
    file = {"bytes": tiff.getvalue(), "path": None}
    pixels = np.asarray(decode(file, place=place(), channels=1))
    assert np.array_equal(pixels, np.round(RAMP / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("largest", "raw"), [(65535, True), (65535, False), (4095, True), (4095, False)]
)
def test_a_pgm_of_16_bits_is_scaled_by_its_largest_value(largest: int, raw: bool) -> None:
    """Break it: refuse Pillow's mode I of every format."""
    numbers = np.linspace(0, largest, 64).astype(">u2")
    pixels = numbers.tobytes() if raw else " ".join(map(str, numbers)).encode()
    file = {"bytes": f"P{5 if raw else 2}\n8 8\n{largest}\n".encode() + pixels, "path": None}
    found = np.asarray(decode(file, place=place(), channels=1)).ravel().astype(int)
    assert np.abs(found - np.round(numbers / largest * 255)).max() <= 1
    assert (found.min(), found.max()) == (0, 255)


def _tiff(bits: int, white_is_zero: bool, data: bytes, sample_format: int = 1) -> bytes:
    """Return an uncompressed grey TIFF of 2 x 1 pixels."""
    tags = [
        *((256, 2), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1)),
        *((273, 134), (277, 1), (278, 1), (279, len(data)), (339, sample_format)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    return b"II" + struct.pack("<HIH", 42, 8, len(tags)) + entries + bytes(4) + data


@pytest.mark.parametrize(
    ("bits", "white_is_zero", "data", "expected"),
    [
        (8, False, b"\x00\xff", [0, 255]),
        (8, True, b"\x00\xff", [255, 0]),
        (16, False, b"\x00\x00\xff\xff", [0, 255]),
        (16, True, b"\x00\x00\xff\xff", [255, 0]),
        (12, False, b"\x00\x0f\xff", [0, 255]),
    ],
)
def test_a_tiff_says_what_is_black_and_white(
    bits: int, white_is_zero: bool, data: bytes, expected: list[int]
) -> None:
    """Break it: take all grey of 16 bits as numbers from 0, black, to 65535."""
    file = {"bytes": _tiff(bits, white_is_zero, data), "path": None}
    assert np.asarray(decode(file, place=place(), channels=1)).ravel().tolist() == expected


def test_signed_numbers_of_8_bits_are_refused() -> None:
    """Break it: take them as they are; -1 is then white."""
    file = {"bytes": _tiff(8, False, b"\x00\xff", sample_format=2), "path": None}
    with pytest.raises(DataError, match=r"mode 'L': signed or 32-bit numbers without a fixed"):
        decode(file, place=place(), channels=1)


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_pixels_without_a_range_are_refused(tmp_path: Path, dtype: type, mode: str) -> None:
    file = stored(Image.fromarray(RAMP.astype(dtype)), tmp_path / "ramp.tif")
    with pytest.raises(DataError, match=rf"row 3, .*ramp\.tif.*mode '{mode}'.*8 or 16 bits"):
        decode(file, place=place(3, "image"), channels=1)


def test_8_bits_are_left_alone(tmp_path: Path) -> None:
    file = stored(picture(1), tmp_path / "grey.png")
    image = decode(file, place=place(), channels=1)
    assert image.tobytes() == picture(1).tobytes()


@pytest.mark.parametrize("file", [None, {"bytes": None, "path": None}, {"bytes": b"no"}])
def test_what_is_no_image_is_named(file: dict[str, object] | None) -> None:
    with pytest.raises(DataError, match=r"The image in row 7, column 'photo'.* cannot be decoded"):
        decode(file, place=place(7, "photo"), channels=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "1"])
@pytest.mark.parametrize(("background", "grey"), [("white", 255), ("#000000", 0)])
def test_transparent_pixels_are_put_on_the_background(
    tmp_path: Path, mode: str, background: str, grey: int
) -> None:
    """Break it: convert to RGB, which shows whatever colour lies below transparent pixels."""
    image = Image.new("RGBA", (8, 8), (200, 10, 60, 0))
    image.paste((50, 50, 50, 255), (0, 0, 4, 8))
    if mode in ("P", "1"):
        flat = Image.new(mode, (8, 8), 1)
        flat.paste(0, (0, 0, 4, 8))
        if mode == "P":
            flat.putpalette([50, 50, 50, 200, 10, 60])
        flat.info["transparency"] = 1
        image = flat
    else:
        image = image.convert(mode)
    path = tmp_path / ("a.tif" if mode == "LA" else "a.png")
    if mode == "PA":
        image = image.convert("RGBA")
    image.save(path, transparency=image.info.get("transparency"))
    file = {"bytes": None, "path": str(path)}
    pixels = np.asarray(
        decode(
            file,
            place=place(),
            channels=1,
            background=background,
        )
    )
    assert set(pixels[:, 4:].flatten()) == {grey}
    assert set(pixels[:, :4].flatten()) == {0 if mode == "1" else 50}


def test_palette_images_have_their_colours(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 10, 60])
    file = stored(image, tmp_path / "a.png")
    assert decode(file, place=place(), channels=3).getpixel((3, 3)) == (200, 10, 60)
