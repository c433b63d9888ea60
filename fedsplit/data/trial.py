"""Decode a few images before a run, so that a broken data set is found before anything starts."""

from __future__ import annotations

import time

import numpy as np
import torch

from fedsplit.data.catalog import ImageDataset
from fedsplit.data.columns import label_array
from fedsplit.data.loader import Images
from fedsplit.input_spec import InputSpec

_MOST_IMAGES, _MOST_SECONDS = 200, 0.5


def try_images(images: ImageDataset, spec: InputSpec) -> int:
    """Decode the first image of each class, of those to train and of those to test, as a run does.

    Half a second is enough for the first 200 classes of common data sets; then it ends.

    Parameters
    ----------
    images : ImageDataset
        The data set.
    spec : InputSpec
        What the model takes.

    Returns
    -------
    int
        The number of images that have been decoded; at least one.

    Raises
    ------
    DataError
        If one of them cannot be decoded: the error of the run.
    """
    end = time.monotonic() + _MOST_SECONDS
    tried = 0
    for split in (images.train, images.test):
        _, first = np.unique(label_array(split, images.label_column), return_index=True)
        rows = np.sort(first)[: _MOST_IMAGES // 2]
        chosen = Images(
            split.select(rows),
            image_column=images.image_column,
            label_column=images.label_column,
            spec=spec,
            keep_bytes=0,
        )
        for number in range(len(chosen)):
            if tried and time.monotonic() > end:
                return tried
            chosen.batch(torch.tensor([number]))
            tried += 1
    return tried
