"""Colours that a model of grey images does not see."""

from __future__ import annotations

import logging
from contextlib import suppress

import numpy as np

from fedsplit.data.catalog import ImageDataset
from fedsplit.data.decode import decode
from fedsplit.errors import DataError
from fedsplit.input_spec import InputSpec

_logger = logging.getLogger(__name__)

_LOOKED_AT = 16


def tell_lost_colours(dataset: ImageDataset, spec: InputSpec) -> None:
    """Warn if the model takes grey images, and a few training images show colours.

    Parameters
    ----------
    dataset : ImageDataset
        The run's images.
    spec : InputSpec
        What the model takes.
    """
    if spec.channels != 1:
        return
    rows = np.linspace(0, len(dataset.train) - 1, _LOOKED_AT).astype(int)
    looked_at = dataset.train.select_columns([dataset.image_column]).with_format("arrow")
    for row in np.unique(rows).tolist():
        (file,) = looked_at[[row]].column(dataset.image_column).to_pylist()
        with suppress(DataError):  # one that cannot be read is reported when it is trained on
            image = decode(
                file,
                place=lambda: "",
                channels=3,
                background=spec.background,
                bounds=dataset.bounds,
            )
            pixels = np.asarray(image)
            if np.ptp(pixels.astype(np.int16), axis=-1).max() > 0:
                _logger.warning(
                    "The images of '%s' have colours, and this model takes grey images of %d x %d: "
                    "colours are dropped. A model of three channels sees them (docs/models.md).",
                    *(dataset.name, spec.height, spec.width),
                )
                return
