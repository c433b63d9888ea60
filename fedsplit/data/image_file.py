"""Open one image that may come from a stranger: its format, its file and its size are bounded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fedsplit.config import DataConfig
from fedsplit.data.regular_files import NotRegularError, open_regular
from fedsplit.data.whole_image import check_rows, check_tiles

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats of Pillow that are decoded in this process: EPS, for one, starts Ghostscript."""
_OPENED_BY_JPEG = ("MPO",)  # several JPEGs in one file, as some cameras write them
_SIGNATURES = (
    (0, b"%PDF", "PDF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML or SVG"),
)
_HEAD_BYTES = 32


@dataclass(frozen=True)
class ImageBounds:
    """What an image may be.

    Attributes
    ----------
    max_pixels : int
        Width times height.
    folder : str | None
        Where relative paths begin; None = the working directory.
    """

    max_pixels: int = DataConfig().max_pixels
    folder: str | None = None


DEFAULT_BOUNDS = ImageBounds()


class RefusedImageError(Exception):
    """An image that must not be decoded.

    Parameters
    ----------
    reason, remedy : str
        What it is or has, without its name, and what can be done; both without a full stop.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}.")
        self.reason, self.remedy = reason, remedy


def open_image(file: Mapping[str, object] | None, bounds: ImageBounds) -> Image.Image:
    """Return a decoded image, turned upright as its EXIF data say. Only its first frame is read.

    Parameters
    ----------
    file : Mapping[str, object] | None
        Its ``bytes`` or its ``path``, as `datasets` stores it.
    bounds : ImageBounds
        What it may be.

    Raises
    ------
    RefusedImageError
        If it is in another format, not in a regular file, at an address, or too large.
    Exception
        Whatever Pillow raises of a broken one.
    """
    with _stream(file or {}, bounds) as stream:
        try:
            # A bomb is a warning up to twice Pillow's limit, and some make all warnings errors.
            image: Image.Image = Image.open(stream, formats=FORMATS)
        except UnidentifiedImageError:
            stream.seek(0)
            if name := format_of(stream.read(_HEAD_BYTES)):
                raise _other_format(name) from None
            raise UnidentifiedImageError("cannot identify image file") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_large(str(error).split(",")[0], bounds.max_pixels) from None
        if image.width * image.height > bounds.max_pixels:
            size = f"{image.width} x {image.height} = {image.width * image.height} pixels"
            raise _too_large(size, bounds.max_pixels)
        check_tiles(image)
        image.load()
        check_rows(image, stream)
    return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF data say, which it then has no more."""
    if image.getexif().get(ExifTags.Base.Orientation) is None:
        return image
    return ImageOps.exif_transpose(image)


def is_readable(path: Path) -> bool:
    """Return whether a file is an image in one of the formats, by its first bytes."""
    try:
        with open_regular(path) as stream, Image.open(stream, formats=FORMATS):
            return True
    except (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return False


def check_undecoded(image: Image.Image) -> None:
    """Refuse an image that somebody has opened but not decoded, if its format is another one.

    Raises
    ------
    RefusedImageError
        If so: to decode it could start a program.
    """
    waiting = bool(getattr(image, "tile", ()))
    if waiting and image.format not in (*FORMATS, *_OPENED_BY_JPEG):
        raise _other_format(str(image.format))


def format_of(head: bytes) -> str | None:
    """Return the format that the first bytes of a file belong to, if it is another one."""
    for start, signature, name in _SIGNATURES:
        if head[start:].startswith(signature):
            return name
    Image.init()
    for name, (_, accepts) in Image.OPEN.items():
        if name not in FORMATS and accepts is not None:
            with suppress(Exception):  # they are made for files that are long enough
                if accepts(head) is True:
                    return name
    return None


def _stream(file: Mapping[str, object], bounds: ImageBounds) -> BinaryIO:
    content, path = file.get("bytes"), file.get("path")
    if isinstance(content, bytes):
        return BytesIO(content)
    if not isinstance(path, str):
        raise ValueError("it has neither bytes nor a path")
    if is_address(path):
        raise RefusedImageError(
            f"is at the address {path!r:.200}, and fedsplit fetches nothing that a data set names",
            "Download it first, and give its bytes or the path of its file",
        )
    try:
        return open_regular(os.path.join(bounds.folder or "", path))
    except NotRegularError as error:
        raise RefusedImageError(
            f"cannot be read: {error}", "Put the image in a regular file, or remove it"
        ) from None


def is_address(path: str) -> bool:
    """Return whether a path is what `datasets` would fetch, or look for in an archive."""
    return "://" in path


def _other_format(name: str) -> RefusedImageError:
    known = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]}"
    return RefusedImageError(
        f"is {name}, whatever its name says; formats that are read are {known}",
        "Convert it, for example to PNG",
    )


def _too_large(size: str, max_pixels: int) -> RefusedImageError:
    return RefusedImageError(
        f"is too large: {size}, and data.max-pixels = {max_pixels}",
        "Shrink it, or raise data.max-pixels",
    )
