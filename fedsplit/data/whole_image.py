"""Whether a decoded image has all its pixels: what a file lacks, Pillow may leave black."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from PIL import Image

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of a PNG's colour types."""
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""Adam7: of each pass the first column and row, and the steps to the next ones."""
_PLANAR = 284
_SEPARATE = 2
_PIECE_BYTES = 2**20


class ShortImageError(ValueError):
    """An image whose file ends before its last row."""


def check_tiles(image: Image.Image) -> None:
    """Refuse a TIFF that lacks strips or tiles; to be called before it is decoded.

    Raises
    ------
    ShortImageError
        If so.
    """
    tiles: Sequence[Any] = getattr(image, "tile", ())
    if image.format != "TIFF" or not tiles:
        return
    there = sum((right - left) * (lower - upper) for _, (left, upper, right, lower), *_ in tiles)
    tags = getattr(image, "tag_v2", {})
    planes = len(image.getbands()) if tags.get(_PLANAR) == _SEPARATE else 1
    if there < (needed := image.width * image.height * planes):
        raise ShortImageError(f"it has strips or tiles for {there} of {needed} pixels")


def check_rows(image: Image.Image, stream: BinaryIO) -> None:
    """Refuse a PNG whose data end before its last row; to be called after it is decoded.

    Pillow leaves the rest black if the data end as they should, with a right checksum.

    Parameters
    ----------
    image : Image.Image
        As Pillow has decoded it.
    stream : BinaryIO
        Its file.

    Raises
    ------
    ShortImageError
        If so.
    """
    if image.format != "PNG":
        return
    stream.seek(8)
    chunks = _chunks(stream)
    _, header = next(chunks)
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    # To count takes a third of the time of decoding, and most images do not end in a black pixel.
    last = image.getpixel((width - 1, height - 1))
    if not interlaced and (any(last) if isinstance(last, tuple) else last):
        return
    sizes = list(_passes(width, height)) if interlaced else [(width, height)]
    depth = bits * _CHANNELS[colour]
    needed = sum(rows * (1 + (columns * depth + 7) // 8) for columns, rows in sizes)
    if (there := _length(chunks, needed)) < needed:
        raise ShortImageError(
            f"its data have {there} of {needed} bytes, so its last rows are missing"
        )


def _passes(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Yield the columns and rows of each pass of an interlaced PNG that has any."""
    for left, top, right, down in _PASSES:
        if width > left and height > top:
            yield -(-(width - left) // right), -(-(height - top) // down)


def _length(chunks: Iterator[tuple[bytes, bytes]], enough: int) -> int:
    """Return how many bytes the pixels of a PNG have, or at least `enough`; they are not kept."""
    found, data = 0, zlib.decompressobj()
    for name, content in chunks:
        rest = content if name == b"IDAT" else b""
        while rest and found < enough and not data.eof:
            found += len(data.decompress(rest, _PIECE_BYTES))
            rest = data.unconsumed_tail
        if found >= enough or data.eof:
            break
    return found


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of a PNG's chunks, in pieces; only header and pixels are read."""
    while len(start := stream.read(8)) == 8:
        length, name = int.from_bytes(start[:4]), start[4:]
        while length and name in (b"IHDR", b"IDAT"):
            piece = stream.read(min(length, _PIECE_BYTES))
            length = length - len(piece) if piece else 0
            yield name, piece
        stream.seek(length + 4, 1)  # with the checksum, which Pillow has compared
