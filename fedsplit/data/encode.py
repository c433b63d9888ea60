"""Encode an image that a user's data set holds in memory as a PNG, from which it decodes the same.

C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

from fedsplit.data.image_file import RefusedImageError, check_undecoded, upright
from fedsplit.errors import DataError

_KEPT = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
"""Pillow's modes that a PNG holds as they are."""
_AS_RGB = frozenset({"CMYK", "YCbCr", "HSV", "RGBX"})
_AS_RGBA = frozenset({"PA", "RGBa"})
_FAST = 1
"""The compression level; a higher one takes several times as long."""


def encode(image: object, *, place: Callable[[], str]) -> bytes:
    """Return an image as a PNG, without loss, turned upright as its EXIF data say.

    Parameters
    ----------
    image : object
        A Pillow image; or a tensor [C, H, W] of 1 or 3 channels, uint8, or floating-point from 0
        to 1, which is rounded to 8 bits.
    place : Callable[[], str]
        Says where it is, for the message.

    Raises
    ------
    DataError
        If it is something else, or its values have no known range.
    """
    if isinstance(image, Tensor):
        image = _from_tensor(image, place)
    if not isinstance(image, Image.Image):
        raise DataError(
            f"{place()} is of the type {type(image).__name__}, not an image. Return a Pillow "
            "image, or a tensor [C, H, W] of 1 or 3 channels."
        )
    try:
        check_undecoded(image)
    except RefusedImageError as error:
        raise DataError(f"{place()} {error}") from None
    if image.mode in _AS_RGB | _AS_RGBA:
        image = image.convert("RGB" if image.mode in _AS_RGB else "RGBA")
    if image.mode not in _KEPT:
        raise DataError(
            f"{place()} has pixels of Pillow's mode '{image.mode}', whose values of black and "
            "white are unknown, or which is no kind of grey or RGB. Convert it to 'L' or 'RGB'."
        )
    file = BytesIO()
    try:
        # Upright first: the PNG is saved without EXIF data, by which files are turned when read.
        upright(image).save(file, "PNG", compress_level=_FAST)
    except Exception as error:  # a file that Pillow opens lazily may be broken
        raise DataError(
            f"{place()} cannot be read ({type(error).__name__}: {error}). Remove or repair it."
        ) from error
    return file.getvalue()


def _from_tensor(pixels: Tensor, place: Callable[[], str]) -> Image.Image:
    shape, dtype = list(pixels.shape), str(pixels.dtype).removeprefix("torch.")
    if len(shape) != 3 or shape[0] not in (1, 3) or 0 in shape:
        remedy = "Return [C, H, W] with 1 channel (grey) or 3 (RGB)."
        if len(shape) == 2:
            remedy += " pixels.unsqueeze(0) gives a grey image its channel."
        elif len(shape) == 3 and shape[2] in (1, 3):
            remedy += " pixels.permute(2, 0, 1) moves the channels of [H, W, C] to the front."
        raise DataError(f"{place()} is a tensor of shape {shape}. {remedy}")
    values = pixels.detach().cpu()
    if values.is_floating_point():
        values = _to_8_bits(values.float(), place)
    elif values.dtype is not torch.uint8:
        raise DataError(
            f"{place()} is a tensor of {dtype}, whose value of white is unknown. Return uint8, or "
            "floating-point numbers from 0 to 1."
        )
    array = values.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if shape[0] == 1 else array)


def _to_8_bits(values: Tensor, place: Callable[[], str]) -> Tensor:
    low, high = values.min().item(), values.max().item()
    if not (low >= 0.0 and high <= 1.0):  # also with NaN
        raise DataError(
            f"{place()} is a tensor with values from {low:g} to {high:g}; floating-point images go "
            "from 0 to 1. Leave out Normalize, which a run does itself as the model asks for it, "
            "or return uint8."
        )
    return values.mul(255).round().to(torch.uint8)
