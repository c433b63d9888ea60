"""The images a model takes: what is decoded, how it is resized, cropped and normalised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class InputSpec:
    """The images a model takes: [B, channels, height, width], (pixel / 255 - mean) / std.

    Attributes
    ----------
    channels, height, width : int
        Of an image; 1 channel is grey, 3 are RGB.
    mean, std : tuple[float, ...]
        Per channel, of pixels from 0 to 1.
    resample : int
        How images are resized, in Pillow's numbers: 2 bilinear, 3 bicubic.
    resize : int | tuple[int, int] | {"never"} | None
        Resize to a shortest edge, or to height and width, before the centre is cropped; "never" =
        crop as it is, black around what is smaller; None = straight to height and width.
    crop_rounding : {"down", "even"}
        What a crop does with half a pixel at its corner: down, as in transformers, or to the even
        pixel, as in torchvision.
    background : str
        The colour behind transparent pixels, as Pillow names it.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = 2
    resize: int | tuple[int, int] | Literal["never"] | None = None
    crop_rounding: Literal["down", "even"] = "down"
    background: str = "white"

    def at(self, size: int) -> InputSpec:
        """Return the same steps for square images of this size, resized in the same proportion."""
        shortest = min(self.height, self.width)
        resize = self.resize
        if isinstance(resize, int):
            resize = round(resize * size / shortest)
        elif isinstance(resize, tuple):
            resize = (round(resize[0] * size / self.height), round(resize[1] * size / self.width))
        return replace(self, height=size, width=size, resize=resize)

    def __post_init__(self) -> None:
        """Turn lists into tuples: a spec is a cache key, and has to be hashable."""
        for name in ("mean", "std", "resize"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
