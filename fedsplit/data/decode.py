"""One stored image to 8-bit pixels: which kinds of pixels are taken, and which are refused."""

from __future__ import annotations

from collections.abc import Mapping

import datasets
import numpy as np
from PIL import Image

from fedsplit.errors import DataError

_IMAGE = datasets.Image()
_WITHOUT_RANGE = ("I", "F")
_LARGEST_16_BIT, _LARGEST_8_BIT = 65535, 255


def decode(
    file: Mapping[str, object] | None, *, column: str, row: int, channels: int
) -> Image.Image:
    """Return an image of mode ``L`` (1 channel) or ``RGB`` (3 channels), in its own size.

    Parameters
    ----------
    file : Mapping[str, object] | None
        Its ``bytes`` or its ``path``, as `datasets` stores it.
    column : str
        Where it stands, for the message.
    row : int
        Likewise.
    channels : int
        1 or 3.

    Raises
    ------
    DataError
        If it is missing or broken, or its pixels are 32-bit integers or floating-point numbers:
        these have no range of their own, so that no one can tell which is white.
    """
    path = file.get("path") if file else None
    name = f"Image {row} of the column '{column}' (file {path})"
    try:
        image: Image.Image = _IMAGE.decode_example(file)
        mode = image.mode
        if mode not in _WITHOUT_RANGE:
            return _to_8_bits(image).convert("L" if channels == 1 else "RGB")
    except Exception as error:
        raise DataError(
            f"{name} cannot be decoded ({type(error).__name__}: {error}). Remove or repair it."
        ) from error
    raise DataError(
        f"{name} has pixels of Pillow's mode '{mode}', 32-bit numbers that have no largest value, "
        "so that black and white are not known. Save it with 8 or 16 bits for each channel, such "
        "as a PNG, scaled as the model shall see it."
    )


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits: Pillow's own `convert` cuts all above 255 off, to white."""
    if not image.mode.startswith("I;16"):
        return image
    wide = np.asarray(image).astype(np.uint32)
    scaled = (wide * _LARGEST_8_BIT + _LARGEST_16_BIT // 2) // _LARGEST_16_BIT
    return Image.fromarray(scaled.astype(np.uint8))
