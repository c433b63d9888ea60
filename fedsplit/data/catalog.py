"""From a name to labelled images: bundled, a local folder, or a Hub data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import datasets

from fedsplit.config import DataConfig
from fedsplit.data import fashion_mini
from fedsplit.data.cache import OnceCache
from fedsplit.data.columns import (
    align_labels,
    as_class_labels,
    as_images,
    find_columns,
    label_array,
)
from fedsplit.data.folders import Version, folder_version, read_folder
from fedsplit.data.hub import read_hub
from fedsplit.data.sampling import balanced_subset, hold_out
from fedsplit.errors import DataError
from fedsplit.names import local_directory

BUNDLED: Mapping[str, Callable[[], datasets.DatasetDict]] = {"fashion-mini": fashion_mini.load}
TEST_SPLITS = ("test", "validation", "valid", "val")
TEST_FRACTION = 1 / 6
# Not the run's seed: runs that differ only in their seed are compared on the same images.
CHOICE_SEED = 0


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images, with the images and labels that central evaluation uses apart.

    Attributes
    ----------
    name : str
        As configured.
    train, test : datasets.Dataset
        Rows with at least the two columns below, of the features `Image` and `ClassLabel`.
    image_column, label_column : str
        Their names.
    class_names : tuple[str, ...]
        The name of class 0, 1, ...
    """

    name: str
    train: datasets.Dataset
    test: datasets.Dataset
    image_column: str
    label_column: str
    class_names: tuple[str, ...]


_CACHE: OnceCache[ImageDataset] = OnceCache(max_size=4)
_SEEN: dict[str, Version | None] = {}
_LOAD_FIELDS = {"name", "max_train_samples", "max_test_samples", "image_column", "label_column"}


def image_size(data: DataConfig) -> tuple[int, int, int]:
    """Return channels (1 or 3), height and width of a data set's first image."""
    images = load_images(data)
    image = images.train[0][images.image_column]
    return (1 if len(image.getbands()) < 3 else 3), image.height, image.width


def load_images(data: DataConfig, *, look: bool = True) -> ImageDataset:
    """Return the data set `data.name`, limited to the configured numbers of images.

    The test images are the split ``test``, else ``validation``; a data set without either has
    one sixth of every class held out. Held-out images and subsets are chosen at random (subsets
    with equal numbers of each class), always the same, whatever the run's seed or its clients.

    Parameters
    ----------
    data : DataConfig
        Which data set.
    look : bool
        Look whether a folder has changed since this process has read it. Within a run do not:
        its clients have to share out one and the same data set, and looking takes time.

    Raises
    ------
    DataError
        If the data set cannot be had, has no training images, or its columns are not clear.
    """
    version = _look(data.name) if look else seen_version(data.name)
    key = (data.model_dump_json(include=_LOAD_FIELDS), version)
    return _CACHE.get(key, lambda: _load(data))


def seen_version(name: str) -> Version | None:
    """Return the state in which this process last saw a folder; None for other data sets."""
    return _SEEN[name] if name in _SEEN else _look(name)


def _look(name: str) -> Version | None:
    folder = None if name in BUNDLED else local_directory(name)
    version = _SEEN[name] = None if folder is None else folder_version(folder)
    return version


def load_data_path(
    path: str | Path, data: DataConfig, class_names: tuple[str, ...] | None = None
) -> ImageDataset:
    """Return a SuperNode's own images: its node config's ``data-path``.

    All of ``train`` is this client's shard: it is neither partitioned nor limited, and nothing is
    held out for a test (`test` is empty).

    Parameters
    ----------
    path : str | Path
        A local folder, as for `load_images`.
    data : DataConfig
        Gives the columns' names where they are not evident.
    class_names : tuple[str, ...] | None
        The run's classes, to which the folder's are matched by name; None = keep its own.

    Raises
    ------
    DataError
        If the folder is not there or holds no labelled images, or an unknown class.
    """
    folder = local_directory(path)
    if folder is None:
        raise DataError(
            f"The SuperNode's data-path '{path}' is not a folder. Give it the path of a folder "
            "with class folders of images, or of a data set saved with save_to_disk, in its "
            "--node-config."
        )
    images = _labelled(str(path), _training(str(path), read_folder(folder)), None, data)
    if class_names is None:
        return images
    aligned = align_labels(images.train, images.label_column, class_names, str(path))
    return replace(images, train=aligned, test=aligned.select([]), class_names=class_names)


def is_local(name: str) -> bool:
    """Return whether the data set `name` is bundled or an existing folder: no download."""
    return name in BUNDLED or local_directory(name) is not None


def _load(data: DataConfig) -> ImageDataset:
    splits = _splits(data.name)
    train = _training(data.name, splits)
    test = next((splits[name] for name in TEST_SPLITS if len(splits.get(name, ()))), None)
    images = _labelled(data.name, train, test, data)
    column = images.label_column
    if test is None:
        stay, held = hold_out(label_array(images.train, column), TEST_FRACTION, CHOICE_SEED)
        if not len(stay) or not len(held):
            raise DataError(
                f"The data set '{data.name}' has {len(train)} training images and no test images: "
                "too few to hold some out. Add images, or a test split."
            )
        images = replace(images, train=images.train.select(stay), test=images.train.select(held))
    return replace(
        images,
        train=_limited(images.train, column, data.max_train_samples),
        test=_limited(images.test, column, data.max_test_samples),
    )


def _splits(name: str) -> Mapping[str, datasets.Dataset]:
    if name in BUNDLED:
        bundled: Mapping[str, datasets.Dataset] = BUNDLED[name]()
        return bundled
    folder = local_directory(name)
    if folder is not None:
        return read_folder(folder)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise DataError(
            f"The data folder '{name}' (data.name) is not there. Give the path of a folder with "
            "class folders of images or of a data set saved with save_to_disk, the id of a data "
            f"set on the Hugging Face Hub, or a bundled name ({', '.join(BUNDLED)})."
        )
    return read_hub(name)


def _training(name: str, splits: Mapping[str, datasets.Dataset]) -> datasets.Dataset:
    if len(splits.get("train", ())):
        return splits["train"]
    sizes = ", ".join(f"{split} ({len(part)} rows)" for split, part in splits.items())
    raise DataError(
        f"The data set '{name}' has no images in a split called 'train'. "
        f"It has: {sizes or 'nothing'}. Choose another data set or rename its splits."
    )


def _labelled(
    name: str, train: datasets.Dataset, test: datasets.Dataset | None, data: DataConfig
) -> ImageDataset:
    image_column, label_column = find_columns(train, data)
    if test is not None and not {image_column, label_column} <= set(test.column_names):
        raise DataError(
            f"The test images of '{name}' lack the column '{image_column}' or '{label_column}' "
            f"of its training images. They have: {', '.join(test.column_names)}."
        )
    train = as_images(train, image_column, name)
    # Empty only after the cast: a column of no rows cannot be cast.
    test = train.select([]) if test is None else as_images(test, image_column, name)
    train, test = as_class_labels((train, test), label_column, name)
    names = tuple(train.features[label_column].names)
    return ImageDataset(name, train, test, image_column, label_column, names)


def _limited(dataset: datasets.Dataset, label_column: str, limit: int) -> datasets.Dataset:
    if limit == 0 or limit >= len(dataset):
        return dataset
    return dataset.select(balanced_subset(label_array(dataset, label_column), limit, CHOICE_SEED))
