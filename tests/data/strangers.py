"""What a stranger's data set may have in place of images."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
newpath 0 0 moveto 8 8 lineto stroke
%%EOF
"""


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_that_says(width: int, height: int) -> bytes:
    """Return the bytes of a PNG of one bit a pixel, all of them black, without making it."""
    row = zlib.compressobj(9)
    empty = bytes(1 + (width + 7) // 8)
    data = b"".join(row.compress(empty) for _ in range(height)) + row.flush()
    return png_of(width, height, 1, chunk(b"IDAT", data))


def png_of(width: int, height: int, bits: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    sum_ = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + sum_


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    with _in(path.parent), socket.socket(socket.AF_UNIX) as server:  # its names are short
        server.bind(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@contextmanager
def _in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


SPECIAL: dict[str, Callable[[Path], None]] = {
    r"a named pipe \(FIFO\)": pipe,
    "a socket": bound_socket,
    "a device": device,
}
"""What it is called, and how it is made."""
