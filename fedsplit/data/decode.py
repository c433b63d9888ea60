"""Decode one stored image to 8-bit pixels, or refuse the kind of pixels that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from fedsplit.data.image_file import DEFAULT_BOUNDS, ImageBounds, RefusedImageError, open_image
from fedsplit.errors import DataError

_WITHOUT_RANGE = ("I", "F")
_LARGEST_8_BIT = 255
_BITS = 16
_SAMPLE_FORMAT, _SIGNED, _WHITE_IS_ZERO = TiffImagePlugin.SAMPLEFORMAT, 2, 0
_STRIP_PIXELS = 2**22
"""A larger image is converted in strips, or copies of it would take four times its memory."""


class _Levels(NamedTuple):
    """The largest number of 16-bit grey, and whether it is black."""

    largest: int
    inverted: bool = False


class UndecodableError(DataError):
    """An image cannot be decoded.

    Parameters
    ----------
    image, reason, remedy : str
        Which image, what is wrong with it, and what can be done about this image; the last without
        a full stop.
    """

    def __init__(self, image: str, reason: str, remedy: str) -> None:
        self.fault = f"{image} {reason}"
        self.reason, self.own_remedy = reason, remedy
        skip = "or leave out all such images with data.on-error = 'skip'."
        super().__init__(f"{self.fault}. {remedy}, {skip}")


def decode(
    file: Mapping[str, object] | None,
    *,
    place: Callable[[], str],
    channels: int,
    background: str = "white",
    bounds: ImageBounds = DEFAULT_BOUNDS,
) -> Image.Image:
    """Return an image of mode ``L`` (1 channel) or ``RGB`` (3 channels), in its original size.

    Parameters
    ----------
    file : Mapping[str, object] | None
        Its ``bytes`` or its ``path``, as `datasets` stores it.
    place : Callable[[], str]
        Says where it is, for the message.
    channels : int
        1 or 3.
    background : str
        What transparent pixels are put on: a colour as Pillow names it.
    bounds : ImageBounds
        What the image may be.

    Raises
    ------
    UndecodableError
        If it is missing, broken or refused (see `open_image`), or its pixels are signed, 32-bit or
        floating-point numbers: these have no fixed range, so the value of white is unknown.
    """
    try:
        image = open_image(file, bounds)
        if image.format == "PPM" and image.mode == "I":  # of 16 bits, whatever its largest value
            image = image.convert("I;16")
        mode, levels = image.mode, _levels_of(image)
        if mode not in _WITHOUT_RANGE and levels is not None:
            return _plain(image, background, "L" if channels == 1 else "RGB", levels)
    except RefusedImageError as error:
        raise UndecodableError(_called(file, place), error.reason, error.remedy) from None
    except Exception as error:
        said = f"{type(error).__name__}: {error}".removesuffix(": ")  # Pillow also has assertions
        reason = f"cannot be decoded ({said})"
        raise UndecodableError(_called(file, place), reason, "Repair it") from error
    raise UndecodableError(
        _called(file, place),
        f"has pixels of Pillow's mode '{mode}': signed or 32-bit numbers without a fixed range, so "
        "the values of black and white are unknown",
        "Scale it, and save it with 8 or 16 bits per channel, for example as a PNG",
    )


def _called(file: Mapping[str, object] | None, place: Callable[[], str]) -> str:
    path = file.get("path") if file else None
    return f"The image in {place()}, file {path}," if path else f"The image in {place()},"


def _levels_of(image: Image.Image) -> _Levels | None:
    """Return the range of grey of 16 bits, or None if a TIFF's numbers are signed.

    Pillow scales and inverts 8 bits itself. Of more bits it returns the numbers that a TIFF has.
    """
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    if image.mode == "L" and _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        return None
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (_BITS,))[0]
    inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO
    return _Levels(2**bits - 1, inverted=inverted)


def _plain(image: Image.Image, background: str, mode: str, levels: _Levels) -> Image.Image:
    """Return an image in 8 bits of a mode without transparency."""
    if image.width * image.height <= _STRIP_PIXELS:
        return _opaque(_to_8_bits(image, levels), background).convert(mode)
    whole = Image.new(mode, image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(_opaque(_to_8_bits(strip, levels), background).convert(mode), (0, top))
    return whole


def _opaque(image: Image.Image, background: str) -> Image.Image:
    """Put an image with transparent pixels on a plain background."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image)


def _to_8_bits(image: Image.Image, levels: _Levels) -> Image.Image:
    """Scale 16-bit grey to 8 bits: Pillow's own `convert` turns everything above 255 white."""
    if not image.mode.startswith("I;16"):
        return image
    wide = np.asarray(image).astype(np.uint32)
    scaled = (wide * _LARGEST_8_BIT + levels.largest // 2) // levels.largest
    if levels.inverted:
        scaled = _LARGEST_8_BIT - scaled
    grey = Image.fromarray(scaled.astype(np.uint8))
    if isinstance(transparent := image.info.get("transparency"), int):  # a PNG's 16-bit level
        grey.putalpha(Image.fromarray(np.where(wide == transparent, 0, 255).astype(np.uint8)))
    return grey
