"""From a name to labelled images: bundled, a local folder, a function, or a Hub data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import datasets

from fedsplit.cache import OnceCache
from fedsplit.config import DataConfig
from fedsplit.data.class_check import check_classes
from fedsplit.data.columns import (
    align_labels,
    as_class_labels,
    as_images,
    find_columns,
    has_labels,
    label_array,
)
from fedsplit.data.folders import allowed_folders, read_folder
from fedsplit.data.image_file import DEFAULT_BOUNDS, ImageBounds
from fedsplit.data.image_paths import AllowedFolders
from fedsplit.data.rows import numbered, own_columns, readable
from fedsplit.data.sampling import balanced_subset, hold_out
from fedsplit.data.sources import Source, allowed_by, read, source_of
from fedsplit.errors import DataError
from fedsplit.names import local_directory, some

_logger = logging.getLogger(__name__)
TEST_SPLITS = ("test", "validation", "valid", "val")
TEST_FRACTION = 1 / 6
# Not the run's seed: runs that differ only in their seed are compared on the same images.
CHOICE_SEED = 0
OWN_FIELDS = ("image_column", "label_column", "on_error", "max_pixels", "follow_links")
"""The keys that decide what a SuperNode's own images are."""


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images; those of central evaluation are separate.

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
    bounds : ImageBounds
        What each image may be.
    num_left_out : tuple[int, int]
        Training and test images above the configured limits.
    """

    name: str
    train: datasets.Dataset
    test: datasets.Dataset
    image_column: str
    label_column: str
    class_names: tuple[str, ...]
    bounds: ImageBounds = DEFAULT_BOUNDS
    num_left_out: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class ImagesKey:
    """Everything that an `ImageDataset` depends on.

    Attributes
    ----------
    source : Source
        The state of the data set.
    data : DataConfig
        Its name, its columns and the limits; all other keys have their defaults.
    """

    source: Source
    data: DataConfig


_CACHE: OnceCache[ImageDataset] = OnceCache(max_size=4)


def load_images(data: DataConfig, *, look: bool = True) -> ImageDataset:
    """Return the data set `data.name`, limited to the configured numbers of images.

    The test images are the split ``test``, else ``validation``; a data set without either has
    one sixth of every class held out. Held-out images and subsets do not depend on the seed.

    Parameters
    ----------
    data : DataConfig
        Which data set.
    look : bool
        Look whether a folder has changed, or call a function again, unless a run holds the data
        set (see `fedsplit.data.run.reading`). A run's clients pass False: they must all divide
        the same images, and looking takes time.

    Raises
    ------
    DataError
        If the data set cannot be read, has no training images, or its columns are ambiguous.
    ConfigError
        If a function of the user's own cannot be imported.
    """
    return images_of(images_key(data, look=look))


def images_key(data: DataConfig, *, look: bool = True) -> ImagesKey:
    """Return everything that the images of a config depend on.

    Raises
    ------
    FedSplitError
        If there is none.
    """
    limits = ("max_train_samples", "max_test_samples")
    splits = ("train_split", "test_split")
    source = source_of(data.name, data.config_name, look=look)
    return ImagesKey(source, data.only("name", "config_name", *splits, *OWN_FIELDS, *limits))


def images_of(key: ImagesKey) -> ImageDataset:
    """Return the images of a key; from memory if this process has read them before.

    Raises
    ------
    DataError
        If they cannot be read.
    """
    return _CACHE.get(key, lambda: _load(key))


def forget(source: Source) -> None:
    """Drop the images of a data set's state from memory."""
    _CACHE.forget(lambda key: isinstance(key, ImagesKey) and key.source == source)


def load_data_path(
    path: str | Path, data: DataConfig, class_names: tuple[str, ...] | None = None
) -> ImageDataset:
    """Return a SuperNode's own images: its node config's ``data-path``.

    All of ``train`` is this client's shard: it is not partitioned and not limited, and nothing is
    held out as test images (`test` is empty).

    Parameters
    ----------
    path : str | Path
        A local folder, as for `load_images`.
    data : DataConfig
        Names the columns if they are ambiguous.
    class_names : tuple[str, ...] | None
        The run's classes, to which the folder's are matched by name; None = keep its own.

    Raises
    ------
    DataError
        If the folder does not exist, holds no labelled images, or holds an unknown class.
    """
    folder = local_directory(path)
    if folder is None:
        raise DataError(
            f"The SuperNode's data-path '{path}' is not a folder. Give it the path of a folder "
            "with class folders of images, or of a data set saved with save_to_disk, in its "
            "--node-config."
        )
    allowed = allowed_folders(folder, follow_links=data.follow_links)
    splits = read_folder(folder, follow_links=data.follow_links)
    images = _labelled(str(path), _split(str(path), splits), None, data, allowed)
    if class_names is None:
        return images
    aligned = align_labels(images.train, images.label_column, class_names, str(path))
    return replace(images, train=aligned, test=aligned.select([]), class_names=class_names)


def _load(key: ImagesKey) -> ImageDataset:
    data = key.data
    splits = read(key.source, follow_links=data.follow_links)
    allowed = allowed_by(key.source, follow_links=data.follow_links)
    of_train = _split(data.name, splits, data.train_split)
    of_test = _test_split(data, splits, of_train)
    images = _labelled(data.name, of_train, of_test, data, allowed)
    column = images.label_column
    check_classes(images.train, images.test, column, images.name)
    if of_test is None:
        images = _with_held_out(images)
    train = _limited(images.train, column, data.max_train_samples)
    test = _limited(images.test, column, data.max_test_samples)
    left_out = len(images.train) - len(train), len(images.test) - len(test)
    return replace(images, train=train, test=test, num_left_out=left_out)


def _test_split(
    data: DataConfig, splits: Mapping[str, datasets.Dataset], train: datasets.Dataset
) -> datasets.Dataset | None:
    """Return the split that is asked for, else the first split for testing that has labels."""
    if data.test_split:
        if data.test_split == data.train_split:
            raise DataError(
                f"data.train-split and data.test-split are both '{data.test_split}'. Choose "
                "another one to test, or leave data.test-split empty to hold images out."
            )
        return _split(data.name, splits, data.test_split, key="data.test-split")
    column = find_columns(train, data)[1]
    for name in TEST_SPLITS:
        if not len(splits.get(name, ())):
            continue
        if has_labels(splits[name], column):
            return numbered(splits[name], name)
        _logger.warning(
            "The split '%s' of the data set '%s' has no labels, so it is not used to test.",
            *(name, data.name),
        )
    return None


def _with_held_out(images: ImageDataset) -> ImageDataset:
    """Hold test images out of the training images."""
    labels = label_array(images.train, images.label_column)
    stay, held = hold_out(labels, TEST_FRACTION, CHOICE_SEED)
    if not len(held):
        raise DataError(
            f"The data set '{images.name}' has {len(labels)} training images, one of each class, "
            "and no test images: too few to hold some out. Add images, or a test split."
        )
    alone = sorted(set(labels[stay]) - set(labels[held]))
    if alone:
        names = [images.class_names[label] for label in alone]
        _logger.warning(
            "The data set '%s' has one image, and so none to test, of: %s.",
            images.name,
            some(names),
        )
    return replace(images, train=images.train.select(stay), test=images.train.select(held))


def _split(
    name: str,
    splits: Mapping[str, datasets.Dataset],
    split: str = "train",
    *,
    key: str = "data.train-split",
) -> datasets.Dataset:
    if len(splits.get(split, ())):
        return numbered(splits[split], split)
    sizes = ", ".join(f"{split} ({len(part)} rows)" for split, part in splits.items())
    raise DataError(
        f"The data set '{name}' has no images in a split called '{split}'. It has: "
        f"{sizes or 'nothing'}. Choose another data set, or name a split with {key}."
    )


def _labelled(
    name: str,
    train: datasets.Dataset,
    test: datasets.Dataset | None,
    data: DataConfig,
    allowed: AllowedFolders | None,
) -> ImageDataset:
    image_column, label_column = find_columns(train, data)
    if test is not None and not {image_column, label_column} <= set(test.column_names):
        raise DataError(
            f"The test images of '{name}' lack the column '{image_column}' or '{label_column}' "
            f"that its training images have. Their columns are: {', '.join(own_columns(test))}. "
            "Give both splits the same columns."
        )
    train = as_images(train, image_column, name, allowed)
    # Made empty after the cast, because a column without rows cannot be cast.
    test = train.select([]) if test is None else as_images(test, image_column, name, allowed)
    bounds = ImageBounds(data.max_pixels, allowed.first if allowed else None)
    if data.on_error == "skip":
        train, test = (readable(part, image_column, name, bounds) for part in (train, test))
    train, test = as_class_labels((train, test), label_column, name)
    names = tuple(train.features[label_column].names)
    return ImageDataset(name, train, test, image_column, label_column, names, bounds)


def _limited(dataset: datasets.Dataset, label_column: str, limit: int) -> datasets.Dataset:
    if limit == 0 or limit >= len(dataset):
        return dataset
    return dataset.select(balanced_subset(label_array(dataset, label_column), limit, CHOICE_SEED))
