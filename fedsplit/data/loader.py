"""From the rows of a data set to the tensors that a model takes.

B batch, C channels, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fedsplit.config import Config, LastBatch
from fedsplit.data.columns import label_array
from fedsplit.data.decode import decode
from fedsplit.data.image_file import DEFAULT_BOUNDS, ImageBounds
from fedsplit.data.rows import numbers_of, place_of
from fedsplit.input_spec import InputSpec

ChangePixels = Callable[[Tensor, Tensor], Tensor]
"""Changes pixels [B, C, H, W], uint8, of the images with these indices [B]."""

KEEP_DECODED_BYTES = 256 * 2**20


class Images:
    """A labelled set of images, ready for a model.

    Sets of at most 256 MB are decoded once and kept as bytes; larger sets are decoded batch by
    batch, to the same values.

    Parameters
    ----------
    dataset : datasets.Dataset
        With the two columns below.
    image_column, label_column : str
        Of the features `Image` and `ClassLabel`.
    spec : InputSpec
        Images are converted to its channels and fitted to its size (see `fitted`).
    bounds : ImageBounds
        What an image may be.
    keep_bytes : int
        Maximum size of a set that is kept decoded.

    Attributes
    ----------
    labels : Tensor
        [len], int64.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        *,
        image_column: str,
        label_column: str,
        spec: InputSpec,
        bounds: ImageBounds = DEFAULT_BOUNDS,
        keep_bytes: int = KEEP_DECODED_BYTES,
    ) -> None:
        self.labels = torch.from_numpy(label_array(dataset, label_column))
        self._column = image_column
        self._dataset = dataset.select_columns([image_column, *numbers_of(dataset)])
        self._rows = self._dataset.select_columns([image_column]).with_format("arrow")
        self._spec, self._bounds = spec, bounds
        self._augment: ChangePixels | None = None
        self._mean = torch.tensor(spec.mean, dtype=torch.float32).view(-1, 1, 1)
        self._std = torch.tensor(spec.std, dtype=torch.float32).view(-1, 1, 1)
        num_bytes = len(self.labels) * spec.channels * spec.height * spec.width
        keep = num_bytes <= keep_bytes
        self._pixels = self._decode(range(len(self.labels))) if keep else None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def num_bytes(self) -> int:
        """Bytes in memory: the labels, and the pixels if they are kept."""
        return self.labels.nbytes + (0 if self._pixels is None else self._pixels.nbytes)

    def changed_by(self, augment: ChangePixels) -> Images:
        """Return the same images, changed at random in every batch; nothing is copied."""
        changed = copy.copy(self)
        changed._augment = augment
        return changed

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images [B, C, H, W], float32 and normalised, and labels [B], int64.

        Parameters
        ----------
        indices : Tensor
            [B], int64, each from 0 to len - 1.

        Raises
        ------
        DataError
            If an image cannot be decoded.
        """
        kept = self._pixels
        pixels = self._decode(indices.tolist()) if kept is None else kept[indices]
        if self._augment is not None:
            pixels = self._augment(pixels, indices)
        images = pixels.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
        return images, self.labels[indices]

    def _decode(self, rows: Sequence[int]) -> Tensor:
        """Return the pixels of some rows, [B, C, H, W], uint8."""
        spec = self._spec
        pixels = np.empty((len(rows), spec.height, spec.width, spec.channels), dtype=np.uint8)
        if rows:
            files = self._rows[rows].column(self._column).to_pylist()
            for position, file in enumerate(files):
                pixels[position] = self._decode_one(file, rows[position])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def _decode_one(self, file: dict[str, object] | None, row: int) -> npt.NDArray[np.uint8]:
        spec = self._spec
        image = decode(
            file,
            place=partial(place_of, self._dataset, self._column, row),
            channels=spec.channels,
            background=spec.background,
            bounds=self._bounds,
        )
        image = fitted(image, spec)
        return np.asarray(image).reshape(spec.height, spec.width, spec.channels)


def images_of_files(files: Sequence[Path], spec: InputSpec, bounds: ImageBounds) -> Images:
    """Return image files without labels (all are 0), decoded batch by batch."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    columns = {"image": [str(file.resolve()) for file in files], "label": [0] * len(files)}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    return Images(
        dataset,
        image_column="image",
        label_column="label",
        spec=spec,
        bounds=bounds,
        keep_bytes=0,
    )


def fitted(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Resize an image to the size that a model takes, and crop its centre if the spec says so."""
    width, height = spec.width, spec.height
    if isinstance(spec.resize, int):
        shortest = min(image.size)
        width, height = (int(spec.resize * edge / shortest) for edge in image.size)
    elif spec.resize == "never":
        width, height = image.size
    elif spec.resize is not None:
        height, width = spec.resize
    if image.size != (width, height):
        # Pillow widens the filter when it shrinks an image, which antialiases it.
        image = image.resize((width, height), Image.Resampling(spec.resample))
    if image.size == (spec.width, spec.height):
        return image
    margins = (width - spec.width, height - spec.height)
    # Python rounds halves to the even number, as torchvision does.
    left, top = (m // 2 if spec.crop_rounding == "down" else round(m / 2) for m in margins)
    return image.crop((left, top, left + spec.width, top + spec.height))


def device_batches(
    images: Images,
    batch_size: int,
    *,
    device: str | torch.device,
    generator: torch.Generator | None = None,
    last: LastBatch = "keep",
    augment: ChangePixels | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield an epoch's images [B, C, H, W] and labels [B] on a device.

    Parameters
    ----------
    images : Images
        The set.
    batch_size, generator, last
        As for `batches`.
    device : str | torch.device
        Where to.
    augment : ChangePixels | None
        As for `Images.changed_by`.
    """
    if augment is not None:
        images = images.changed_by(augment)
    for indices in batches(len(images), batch_size, generator=generator, last=last):
        pixels, labels = images.batch(indices)
        yield pixels.to(device), labels.to(device)


def batches(
    num_examples: int,
    batch_size: int,
    *,
    generator: torch.Generator | None,
    last: LastBatch = "keep",
) -> Iterator[Tensor]:
    """Yield the indices of one epoch's batches, [B] each.

    Parameters
    ----------
    num_examples : int
        Indices run from 0 to num_examples - 1.
    batch_size : int
        B.
    generator : torch.Generator | None
        Draws one permutation for the epoch; None = in order, for evaluation.
    last : {"keep", "merge", "drop"}
        What to do with a last batch of fewer than B examples: yield it as it is; merge it into
        the batch before it, which then has up to 2B - 1 examples; or leave it out. A batch that
        is the only one has no batch to be merged into, and is kept.
    """
    if generator is None:
        order = torch.arange(num_examples)
    else:
        order = torch.randperm(num_examples, generator=generator)
    sizes = batch_sizes(num_examples, batch_size, last)
    yield from torch.split(order[: sum(sizes)], sizes) if sizes else ()


def batch_sizes(num_examples: int, batch_size: int, last: LastBatch = "keep") -> list[int]:
    """Return the number of examples in each batch of an epoch, as `batches` yields them."""
    full, rest = divmod(num_examples, batch_size)
    sizes = [batch_size] * full
    if rest and last == "merge" and full:
        sizes[-1] += rest
    elif rest and last != "drop":
        sizes.append(rest)
    return sizes


def largest_batch(config: Config) -> int:
    """Return the maximum number of images in a training step."""
    return 2 * config.batch_size - 1 if config.last_batch == "merge" else config.batch_size
