"""Images whose files end too soon: Pillow leaves the rest black, and says nothing."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fedsplit.data.image_file import ImageBounds, open_image
from fedsplit.data.whole_image import ShortImageError
from tests.data.pictures import picture
from tests.data.strangers import chunk, encoded

KINDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def opened(content: bytes) -> Image.Image:
    return open_image({"bytes": content, "path": None}, ImageBounds())


def png(
    size: int, colour: int, bits: int, data: bytes, *, interlaced: bool = False, chunks: int = 1
) -> bytes:
    """Return a PNG of this size with these unpacked data."""
    header = struct.pack(">IIBBBBB", size, size, bits, colour, 0, 0, interlaced)
    packed = zlib.compress(data)
    step = -(-len(packed) // chunks)
    parts = [chunk(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step)]
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"tEXt", b"k\0v")
    return start + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("colour", "bits"),
    [(0, 1), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 2), (3, 8), (4, 8), (4, 16), (6, 8)],
)
@pytest.mark.parametrize("size", [2, 7, 9])
def test_a_png_without_its_last_row_is_refused(colour: int, bits: int, size: int) -> None:
    """Break it: leave out `check_rows`; Pillow then returns a black last row."""
    row = 1 + (size * bits * KINDS[colour] + 7) // 8
    data = bytes(size * row)  # all black, so that nothing else shows which rows are missing
    assert opened(png(size, colour, bits, data)).size == (size, size)
    with pytest.raises(ShortImageError, match=f"its data have {size * row - row} of {size * row} "):
        opened(png(size, colour, bits, data[:-row]))


@pytest.mark.parametrize(("size", "needed"), [(2, 7), (5, 36), (8, 79), (9, 100)])
def test_an_interlaced_png_without_its_last_row_is_refused(size: int, needed: int) -> None:
    """Break it: count its rows as if they were not interlaced."""
    data = bytes(needed)
    assert opened(png(size, 0, 8, data, interlaced=True)).size == (size, size)
    with pytest.raises(ShortImageError, match=f"its data have {needed - size - 1} of {needed} "):
        opened(png(size, 0, 8, data[: -size - 1], interlaced=True))


@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_a_whole_png_may_have_several_chunks_and_bytes_too_many(chunks: int) -> None:
    """Break it: count the first chunk only."""
    assert opened(png(4, 0, 8, bytes(4 * 5), chunks=chunks)).size == (4, 4)
    assert opened(png(4, 0, 8, bytes(4 * 5 + 100), chunks=chunks)).size == (4, 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_whole_pngs_are_read(mode: str) -> None:
    image = Image.new(mode, (5, 3))
    assert np.array_equal(np.asarray(opened(encoded(image))), np.asarray(image))


def tiff(rows: int, height: int, colours: int = 1, planes: int = 1) -> bytes:
    """Return an uncompressed TIFF of 8 columns with one strip of so many rows in each plane."""
    strip = b"\xc8" * (8 * rows)
    places = [1000 + len(strip) * plane for plane in range(planes)]
    tags = {
        **{256: [8], 257: [height], 258: [8] * colours, 259: [1], 262: [2 if colours > 1 else 1]},
        **{273: places, 277: [colours], 278: [rows], 279: [len(strip)] * planes},
        284: [2 if planes > 1 else 1],
    }
    entries, lists = b"", b""
    for tag, values in tags.items():
        packed = struct.pack(f"<{len(values)}I", *values)
        place = packed if len(values) == 1 else struct.pack("<I", 500 + len(lists))
        entries += struct.pack("<HHI", tag, 4, len(values)) + place
        lists += packed if len(values) > 1 else b""
    start = b"II" + struct.pack("<HIH", 42, 8, len(tags)) + entries
    return (start.ljust(500, b"\0") + lists).ljust(1000, b"\0") + strip * planes


def test_a_tiff_without_its_second_strip_is_refused() -> None:
    """Break it: leave out `check_tiles`; the lower half is then black."""
    assert np.asarray(opened(tiff(8, 8))).min() == 200
    with pytest.raises(ShortImageError, match="strips or tiles for 32 of 64 pixels"):
        opened(tiff(4, 8))


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"tiffinfo": {278: 3}}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_whole_tiffs_are_read(mode: str, options: dict[str, object]) -> None:
    image = picture(1, mode)
    assert opened(encoded(image, "TIFF", **options)).tobytes() == image.tobytes()


def test_a_tiff_without_its_last_planes_is_refused() -> None:
    """Break it: ask for as many pixels as a TIFF of one plane has; it is then red."""
    assert np.asarray(opened(tiff(8, 8, colours=3, planes=3))).min() == 200
    with pytest.raises(ShortImageError, match="strips or tiles for 128 of 192 pixels"):
        opened(tiff(8, 8, colours=3, planes=2))
