"""Who trains and is scored on what: a client's shard, all shards together, the test images."""

from __future__ import annotations

from typing import NamedTuple

import datasets
import numpy as np

from fedsplit.config import Config
from fedsplit.data.cache import OnceCache
from fedsplit.data.catalog import (
    ImageDataset,
    is_local,
    load_data_path,
    load_images,
    seen_version,
)
from fedsplit.data.folders import folder_version
from fedsplit.data.loader import Images, ImageSpec
from fedsplit.data.partition import partition
from fedsplit.names import local_directory
from fedsplit.seeding import derive_seed

CACHE_BYTES = 1024 * 2**20


class Shard(NamedTuple):
    """One client's images."""

    train: Images
    validation: Images


def validation_size(num_examples: int, fraction: float) -> int:
    """Return how many of a client's images go to validation; at least one stays for training."""
    return min(round(num_examples * fraction), num_examples - 1)


def split_validation(
    dataset: datasets.Dataset, fraction: float, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split a client's rows at random into (train, validation).

    Parameters
    ----------
    dataset : datasets.Dataset
        At least one row.
    fraction : float
        Part that goes to validation, rounded; at least one row stays for training.
    seed : int
        Of the choice.
    """
    num_validation = validation_size(len(dataset), fraction)
    order = np.random.default_rng(seed).permutation(len(dataset))
    validation, train = order[:num_validation], order[num_validation:]
    return dataset.select(np.sort(train)), dataset.select(np.sort(validation))


_SHARDS: OnceCache[Shard] = OnceCache(
    CACHE_BYTES, lambda shard: shard.train.num_bytes + shard.validation.num_bytes
)
_TESTS: OnceCache[Images] = OnceCache(CACHE_BYTES, lambda images: images.num_bytes)


def load_shard(
    config: Config,
    partition_id: int,
    num_clients: int,
    spec: ImageSpec,
    data_path: str | None = None,
) -> Shard:
    """Return one client's images; from memory if this process has loaded them before.

    Parameters
    ----------
    config : Config
        Its `data` and `seed` decide.
    partition_id : int
        Which client.
    num_clients : int
        K: how many the images are shared out among.
    spec : ImageSpec
        What the model takes.
    data_path : str | None
        A SuperNode's own folder (node config ``data-path``), all of whose training images are
        this client's. Its classes are matched by name to those of `data.name` where that is
        bundled or a local folder; otherwise its label numbers are taken as they are.

    Raises
    ------
    DataError
        If the images cannot be had.
    ConfigError
        If they cannot be shared out as configured.
    """
    own = None if data_path is None else local_directory(data_path)
    versions = seen_version(config.data.name), None if own is None else folder_version(own)
    return _SHARDS.get(
        (config.data, config.seed, partition_id, num_clients, _key(spec), data_path, versions),
        lambda: _load_shard(config, partition_id, num_clients, spec, data_path),
    )


def load_pool(config: Config, num_clients: int, spec: ImageSpec) -> Images:
    """Return the training images of all clients together, without their validation splits.

    Raises
    ------
    FedSplitError
        As `load_shard`.
    """
    source = load_images(config.data, look=False)
    shards = [_split_share(config, client, num_clients)[0] for client in range(num_clients)]
    pooled = datasets.concatenate_datasets(shards)
    return _images(pooled, source, spec)


def load_test(config: Config, spec: ImageSpec) -> Images:
    """Return the held-out images of central evaluation; from memory after the first time.

    Raises
    ------
    DataError
        If the images cannot be had.
    """

    def load() -> Images:
        source = load_images(config.data, look=False)
        return _images(source.test, source, spec)

    return _TESTS.get((config.data, _key(spec), seen_version(config.data.name)), load)


def _load_shard(
    config: Config, partition_id: int, num_clients: int, spec: ImageSpec, data_path: str | None
) -> Shard:
    data = config.data
    if data_path is None:
        source = load_images(data, look=False)
        parts = _split_share(config, partition_id, num_clients)
    else:
        named = is_local(data.name)
        class_names = load_images(data, look=False).class_names if named else None
        source = load_data_path(data_path, data, class_names)
        parts = _split_own(source.train, config, partition_id)
    train, validation = (_images(part, source, spec) for part in parts)
    return Shard(train, validation)


def _split_share(
    config: Config, partition_id: int, num_clients: int
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Return a client's share of the data set as (train, validation)."""
    rows = partition(
        load_images(config.data, look=False),
        config.data,
        num_clients=num_clients,
        seed=config.seed,
        partition_id=partition_id,
    )
    return _split_own(rows, config, partition_id)


def _split_own(
    rows: datasets.Dataset, config: Config, partition_id: int
) -> tuple[datasets.Dataset, datasets.Dataset]:
    seed = derive_seed(config.seed, "validation", partition_id)
    return split_validation(rows, config.data.validation_fraction, seed)


def _images(rows: datasets.Dataset, source: ImageDataset, spec: ImageSpec) -> Images:
    """Return rows of a data set as a model takes them."""
    return Images(
        rows, image_column=source.image_column, label_column=source.label_column, spec=spec
    )


def _key(spec: ImageSpec) -> tuple[object, ...]:
    return (spec.channels, spec.height, spec.width, tuple(spec.mean), tuple(spec.std))
