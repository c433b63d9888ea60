"""Random changes of training images, which are the same wherever an image is trained on."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fedsplit.config import Config
from fedsplit.config.data import Augment
from fedsplit.seeding import derive_seed, unchanged_generator

_PADDED = 8


class Augmentation:
    """One epoch's random changes of images, by torchvision's ``transforms.v2``.

    Each image has a seed of its own, so that its change depends on nothing else: not on its batch,
    on the thread, or on other clients.

    Parameters
    ----------
    kind : {"flip-crop", "randaugment", "trivial"}
        - flip-crop: a random crop of the image padded by 1/8 of its size on each side, mirrored,
          and a horizontal flip in half of the cases (He et al., CVPR 2016, section 4.2)
        - randaugment: Cubuk et al., NeurIPS 2020, two operations of magnitude 9
        - trivial: TrivialAugment (Mueller & Hutter, ICCV 2021), its wide space
    seed : int
        The run's.
    names : str | int
        Of the epoch: whose it is, round and number.
    """

    def __init__(self, kind: Augment, seed: int, *names: str | int) -> None:
        self._kind = kind
        self._seed = seed
        self._names = names

    def __call__(self, pixels: Tensor, indices: Tensor) -> Tensor:
        """Return the changed images.

        Parameters
        ----------
        pixels : Tensor
            [B, C, H, W], uint8.
        indices : Tensor
            [B], int64: which image of its set each one is.
        """
        transform = _transform(self._kind, *pixels.shape[2:])
        changed = torch.empty_like(pixels)
        # The transforms draw from torch's global generator, which cannot be passed to them.
        with unchanged_generator():
            for place, index in enumerate(indices.tolist()):
                seed = derive_seed(self._seed, "augment", *self._names, index)
                torch.default_generator.manual_seed(seed)
                changed[place] = transform(pixels[place])
        return changed


@cache
def _transform(kind: Augment, height: int, width: int) -> Any:  # noqa: ANN401
    v2: Any = importlib.import_module("torchvision.transforms.v2")  # not for runs without it
    if kind == "randaugment":
        return v2.RandAugment(num_ops=2, magnitude=9)
    if kind == "trivial":
        return v2.TrivialAugmentWide()
    padding = (width // _PADDED, height // _PADDED)
    crop = v2.RandomCrop((height, width), padding=padding, padding_mode="reflect")
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


def augmentation(config: Config, *names: str | int) -> Augmentation | None:
    """Return the random changes of an epoch, or None if ``data.augment`` is none."""
    kind = config.data.augment
    return None if kind == "none" else Augmentation(kind, config.seed, *names)
