"""The images that clients train on and are scored on: one client's, all clients', the test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import datasets
import numpy as np

from fedsplit.cache import OnceCache
from fedsplit.config import Config, DataConfig
from fedsplit.data.catalog import (
    OWN_FIELDS,
    ImageDataset,
    ImagesKey,
    images_key,
    images_of,
    load_data_path,
)
from fedsplit.data.folders import FolderState, folder_state
from fedsplit.data.loader import KEEP_DECODED_BYTES, Images
from fedsplit.data.partition import partition, partitioning
from fedsplit.data.sources import Source
from fedsplit.input_spec import InputSpec
from fedsplit.names import local_directory
from fedsplit.seeding import derive_seed

CACHE_BYTES = 1024 * 2**20


class Shard(NamedTuple):
    """One client's images."""

    train: Images
    validation: Images


def validation_size(num_examples: int, fraction: float) -> int:
    """Return the number of a client's images for validation; at least one stays for training."""
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
        Fraction for validation; the number of rows is rounded, and at least one row stays for
        training.
    seed : int
        Seed of the choice.
    """
    num_validation = validation_size(len(dataset), fraction)
    order = np.random.default_rng(seed).permutation(len(dataset))
    validation, train = order[:num_validation], order[num_validation:]
    return dataset.select(np.sort(train)), dataset.select(np.sort(validation))


@dataclass(frozen=True)
class _Validation:
    """How a client's validation split is chosen."""

    fraction: float
    seed: int


@dataclass(frozen=True)
class _ShareKey:
    """Everything that a client's share of the run's data set depends on."""

    images: ImagesKey
    partitioning: DataConfig
    num_clients: int
    partition_id: int
    seed: int
    validation: _Validation
    spec: InputSpec


@dataclass(frozen=True)
class _OwnKey:
    """Everything that a shard from a SuperNode's own folder depends on."""

    path: str
    folder: FolderState | None
    columns: DataConfig
    class_names: tuple[str, ...]
    validation: _Validation
    spec: InputSpec


@dataclass(frozen=True)
class _TestKey:
    """Everything that the test images depend on."""

    images: ImagesKey
    spec: InputSpec


_SHARDS: OnceCache[Shard] = OnceCache(
    CACHE_BYTES, lambda shard: shard.train.num_bytes + shard.validation.num_bytes
)
_TESTS: OnceCache[Images] = OnceCache(CACHE_BYTES, lambda images: images.num_bytes)


def load_shard(
    config: Config,
    partition_id: int,
    num_clients: int,
    spec: InputSpec,
    data_path: str | None = None,
    class_names: Sequence[str] = (),
) -> Shard:
    """Return one client's images; from memory if this process has loaded them before.

    Parameters
    ----------
    config : Config
        Its `data` and `seed` decide.
    partition_id : int
        Which client.
    num_clients : int
        K: the number of clients that the images are divided among.
    spec : InputSpec
        What the model takes.
    data_path : str | None
        A SuperNode's own folder (node config ``data-path``), all of whose training images are
        this client's. Its classes are matched by name to those of the run.
    class_names : Sequence[str]
        The run's classes, as the server has told them: `data.name` need not be where a SuperNode
        is. Empty = those of `data.name`.

    Raises
    ------
    DataError
        If the images cannot be read.
    ConfigError
        If they cannot be divided as configured.
    """
    if data_path is None:
        share = _share_key(config, partition_id, num_clients, spec)
        return _SHARDS.get(share, lambda: _load_share(share))
    folder = local_directory(data_path)
    own = _OwnKey(
        path=data_path,
        folder=None if folder is None else folder_state(folder),
        columns=config.data.only(*OWN_FIELDS),
        class_names=tuple(class_names) or _images(config).class_names,
        validation=_validation(config, partition_id),
        spec=spec,
    )
    return _SHARDS.get(own, lambda: _load_own(own))


def load_pool(config: Config, num_clients: int, spec: InputSpec) -> Images:
    """Return the training images of all clients together, without their validation splits.

    Raises
    ------
    FedSplitError
        As `load_shard`.
    """
    keys = [_share_key(config, client, num_clients, spec) for client in range(num_clients)]
    pooled = datasets.concatenate_datasets([_split_share(key)[0] for key in keys])
    return _fitted(pooled, _images(config), spec)


def load_test(config: Config, spec: InputSpec) -> Images:
    """Return the test images of central evaluation; from memory after the first time.

    Raises
    ------
    DataError
        If the images cannot be read.
    """
    key = _TestKey(images_key(config.data, look=False), spec)
    return _TESTS.get(key, lambda: _load_test(key))


def look_at_shard(config: Config, partition_id: int, num_clients: int, spec: InputSpec) -> Shard:
    """Return the images that `load_shard` returns, of which none is decoded yet.

    Raises
    ------
    FedSplitError
        As `load_shard`.
    """
    parts = _split_share(_share_key(config, partition_id, num_clients, spec))
    return Shard(*(_undecoded(part, config, spec) for part in parts))


def look_at_test(config: Config, spec: InputSpec) -> Images:
    """Return the images that `load_test` returns, of which none is decoded yet.

    Raises
    ------
    DataError
        As `load_test`.
    """
    return _undecoded(_images(config).test, config, spec)


def _undecoded(rows: datasets.Dataset, config: Config, spec: InputSpec) -> Images:
    return _fitted(rows, _images(config), spec, keep_bytes=0)


def forget(source: Source) -> None:
    """Drop the images of a data set's state from memory."""

    def of_source(key: object) -> bool:
        return isinstance(key, _ShareKey | _TestKey) and key.images.source == source

    _SHARDS.forget(of_source)
    _TESTS.forget(of_source)


def _share_key(config: Config, partition_id: int, num_clients: int, spec: InputSpec) -> _ShareKey:
    return _ShareKey(
        images=images_key(config.data, look=False),
        partitioning=partitioning(config.data),
        num_clients=num_clients,
        partition_id=partition_id,
        seed=config.seed,
        validation=_validation(config, partition_id),
        spec=spec,
    )


def _validation(config: Config, partition_id: int) -> _Validation:
    seed = derive_seed(config.seed, "validation", partition_id)
    return _Validation(config.data.validation_fraction, seed)


def _images(config: Config) -> ImageDataset:
    return images_of(images_key(config.data, look=False))


def _load_share(key: _ShareKey) -> Shard:
    train, validation = _split_share(key)
    source = images_of(key.images)
    return Shard(_fitted(train, source, key.spec), _fitted(validation, source, key.spec))


def _load_own(key: _OwnKey) -> Shard:
    source = load_data_path(key.path, key.columns, key.class_names)
    parts = split_validation(source.train, key.validation.fraction, key.validation.seed)
    return Shard(*(_fitted(part, source, key.spec) for part in parts))


def _load_test(key: _TestKey) -> Images:
    source = images_of(key.images)
    return _fitted(source.test, source, key.spec)


def _split_share(key: _ShareKey) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Return a client's share of the data set as (train, validation)."""
    rows = partition(
        images_of(key.images),
        key.partitioning,
        num_clients=key.num_clients,
        seed=key.seed,
        partition_id=key.partition_id,
    )
    return split_validation(rows, key.validation.fraction, key.validation.seed)


def _fitted(
    rows: datasets.Dataset,
    source: ImageDataset,
    spec: InputSpec,
    keep_bytes: int = KEEP_DECODED_BYTES,
) -> Images:
    """Return rows of a data set as a model takes them."""
    return Images(
        rows,
        image_column=source.image_column,
        label_column=source.label_column,
        spec=spec,
        bounds=source.bounds,
        keep_bytes=keep_bytes,
    )
