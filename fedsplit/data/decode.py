"""Decode one stored image to 8-bit pixels, or refuse the kind of pixels that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import datasets
import numpy as np
from PIL import Image

from fedsplit.errors import DataError

_IMAGE = datasets.Image()
_WITHOUT_RANGE = ("I", "F")
_LARGEST_16_BIT, _LARGEST_8_BIT = 65535, 255


class UndecodableError(DataError):
    """An image cannot be decoded.

    Parameters
    ----------
    fault, remedy : str
        What is wrong with which image, and what can be done.
    """

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(f"{fault}. {remedy}")
        self.fault = fault


def decode(
    file: Mapping[str, object] | None,
    *,
    place: Callable[[], str],
    channels: int,
    background: str = "white",
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

    Raises
    ------
    UndecodableError
        If it is missing or broken, or its pixels are 32-bit integers or floating-point numbers:
        these have no fixed range, so the value of white is unknown.
    """
    try:
        image: Image.Image = _IMAGE.decode_example(file)
        mode = image.mode
        if mode not in _WITHOUT_RANGE:
            plain = _opaque(_to_8_bits(image), background)
            return plain.convert("L" if channels == 1 else "RGB")
    except Exception as error:
        raise UndecodableError(
            f"{_called(file, place)} cannot be decoded ({type(error).__name__}: {error})",
            "Remove or repair it, or leave out all such images with data.on-error = 'skip'.",
        ) from error
    raise UndecodableError(
        f"{_called(file, place)} has pixels of Pillow's mode '{mode}': 32-bit numbers without a "
        "fixed range, so the values of black and white are unknown",
        "Scale it, and save it with 8 or 16 bits per channel, for example as a PNG.",
    )


def _called(file: Mapping[str, object] | None, place: Callable[[], str]) -> str:
    path = file.get("path") if file else None
    return f"The image in {place()}, file {path}," if path else f"The image in {place()},"


def _opaque(image: Image.Image, background: str) -> Image.Image:
    """Put an image with transparent pixels on a plain background."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits: Pillow's own `convert` turns everything above 255 white."""
    if not image.mode.startswith("I;16"):
        return image
    wide = np.asarray(image).astype(np.uint32)
    scaled = (wide * _LARGEST_8_BIT + _LARGEST_16_BIT // 2) // _LARGEST_16_BIT
    grey = Image.fromarray(scaled.astype(np.uint8))
    if isinstance(transparent := image.info.get("transparency"), int):  # a PNG's 16-bit level
        grey.putalpha(Image.fromarray(np.where(wide == transparent, 0, 255).astype(np.uint8)))
    return grey
