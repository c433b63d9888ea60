"""Divide the training images among the clients with `flwr_datasets`' partitioners.

The partitioners see a table of labels and row numbers in a seeded order, never the images.
`IidPartitioner` takes contiguous blocks without shuffling, and `ShardPartitioner` sorts the data
set and writes a cache file beside one on disk; with such a table neither does any harm.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import datasets
import numpy as np

from fedsplit.cache import OnceCache
from fedsplit.config import DataConfig
from fedsplit.data.catalog import ImageDataset
from fedsplit.data.columns import label_array
from fedsplit.data.owners import deal_out, owners_of
from fedsplit.data.sampling import Rows
from fedsplit.errors import ConfigError
from fedsplit.seeding import derive_seed

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

_logger = logging.getLogger(__name__)
# They warn at every redraw and for every unused class; `catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module=r"flwr_datasets\.partitioner")
warnings.filterwarnings("ignore", message="Specifying null_placement")  # of `Dataset.sort`

_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "iid": (),
    "dirichlet": ("alpha", "min_partition_size"),
    "inner-dirichlet": ("alpha",),
    "pathological": ("classes_per_client",),
    "shard": ("shards_per_client",),
    "linear": (),
    "square": (),
    "exponential": (),
    "natural-id": ("partition_column",),
}
"""The keys of ``data`` that each partitioner reads."""


@dataclass(frozen=True)
class _SharesKey:
    """Everything that a division of the training images depends on."""

    labels_sha256: bytes
    owners_sha256: bytes
    partitioning: DataConfig
    num_clients: int
    seed: int


_CACHE: OnceCache[list[Rows]] = OnceCache(max_size=16)


def partitioning(data: DataConfig) -> DataConfig:
    """Return a config with the partitioner and the keys that it reads, all others at defaults."""
    return data.only("partitioner", *_PARAMETERS[data.partitioner])


def partition(
    dataset: ImageDataset, data: DataConfig, *, num_clients: int, seed: int, partition_id: int
) -> datasets.Dataset:
    """Return the training images of one client.

    Every training image belongs to exactly one client, with two exceptions that follow from the
    definitions, and are logged as a warning. ``pathological`` leaves out classes that no client has
    drawn, which can happen when there are fewer clients than classes. ``shard`` makes shards of
    equal size and leaves out the remaining images, chosen at random; they are fewer than the
    shards. Client i has images in proportion to i + 1 with ``linear``, to its square with
    ``square``, and to e^(i + 1) with ``exponential``. ``natural-id`` gives each client all images
    of an owner, such as a writer, or of several: owners are dealt out in a seeded order.

    Parameters
    ----------
    dataset : ImageDataset
        What to divide.
    data : DataConfig
        Partitioner and its parameters.
    num_clients : int
        K.
    seed : int
        The run's seed.
    partition_id : int
        Which client, 0 to K - 1.

    Raises
    ------
    ConfigError
        If the data set cannot be divided like this.
    """
    shares = _shares(dataset, data, num_clients=num_clients, seed=seed)
    if not 0 <= partition_id < num_clients:
        raise ConfigError(
            f"There is no client {partition_id}: the images of '{dataset.name}' are divided among "
            f"{num_clients} clients, 0 to {num_clients - 1}. Start as many SuperNodes as "
            "num-clients says."
        )
    return dataset.train.select(shares[partition_id])


def class_counts(
    dataset: ImageDataset, data: DataConfig, *, num_clients: int, seed: int
) -> list[list[int]]:
    """Return the number of training images of each client and class, [K, classes].

    Raises
    ------
    ConfigError
        If the data set cannot be divided like this.
    """
    labels = label_array(dataset.train, dataset.label_column)
    shares = _shares(dataset, data, num_clients=num_clients, seed=seed)
    num_classes = len(dataset.class_names)
    return [np.bincount(labels[rows], minlength=num_classes).tolist() for rows in shares]


def _shares(dataset: ImageDataset, data: DataConfig, *, num_clients: int, seed: int) -> list[Rows]:
    labels = label_array(dataset.train, dataset.label_column)
    owners = owners_of(dataset, data) if data.partitioner == "natural-id" else np.array([])
    of_labels, of_owners = (hashlib.sha256(each.tobytes()).digest() for each in (labels, owners))
    key = _SharesKey(of_labels, of_owners, partitioning(data), num_clients, seed)
    return _CACHE.get(key, lambda: _divide(labels, owners, key, dataset.name))


def _divide(labels: Rows, owners: Rows, key: _SharesKey, name: str) -> list[Rows]:
    """Return the rows of each client, in the partitioner's order; `name` is for messages."""
    data, num_clients, seed = key.partitioning, key.num_clients, key.seed
    _check(labels, data, num_clients, name)
    if data.partitioner == "natural-id":
        return deal_out(owners, data, num_clients, derive_seed(seed, "partition"), name)
    order = np.random.default_rng(derive_seed(seed, "partition-order")).permutation(len(labels))
    if data.partitioner == "shard":
        num_shards = num_clients * data.shards_per_client
        order = order[: len(order) - len(order) % num_shards]
    table = datasets.Dataset.from_dict({"label": labels[order], "row": order})
    load: Callable[[int], datasets.Dataset] = partial(_iid, table, num_clients)
    if data.partitioner != "iid":
        partitioner = _partitioner(data, num_clients, len(order), derive_seed(seed, "partition"))
        partitioner.dataset = table
        load = partitioner.load_partition
    try:
        parts = [load(client) for client in range(num_clients)]
    except ValueError as error:
        raise ConfigError(_impossible(data, num_clients, len(labels), name, error)) from error
    shares = [np.array(part.with_format("numpy")["row"][:], dtype=np.int64) for part in parts]
    if unused := len(labels) - sum(map(len, shares)):
        _logger.warning(
            "%d of the %d training images of '%s' are at no client (data.partitioner = '%s').",
            *(unused, len(labels), name, data.partitioner),
        )
    return shares


def _iid(table: datasets.Dataset, num_clients: int, client: int) -> datasets.Dataset:
    """Return what flwr_datasets' `IidPartitioner` does, whose import takes each process a second.

    It also imports plotting libraries.
    """
    return table.shard(num_shards=num_clients, index=client, contiguous=True)


def _partitioner(data: DataConfig, num_clients: int, num_images: int, seed: int) -> Partitioner:
    # Imported here: the package imports plotting libraries too, which takes 1.5 s, and a client
    # with a data-path of its own does not need it.
    from flwr_datasets.partitioner import (
        DirichletPartitioner,
        ExponentialPartitioner,
        InnerDirichletPartitioner,
        LinearPartitioner,
        PathologicalPartitioner,
        ShardPartitioner,
        SquarePartitioner,
    )

    if data.partitioner == "dirichlet":
        return DirichletPartitioner(
            num_clients,
            partition_by="label",
            alpha=data.alpha,
            min_partition_size=max(1, data.min_partition_size),
            seed=seed,
        )
    if data.partitioner == "inner-dirichlet":
        return InnerDirichletPartitioner(
            [len(part) for part in np.array_split(np.arange(num_images), num_clients)],
            partition_by="label",
            alpha=data.alpha,
            seed=seed,
        )
    if data.partitioner == "pathological":
        return PathologicalPartitioner(
            num_clients,
            partition_by="label",
            num_classes_per_partition=data.classes_per_client,
            class_assignment_mode="first-deterministic",
            seed=seed,
        )
    if data.partitioner == "shard":
        return ShardPartitioner(
            num_clients,
            partition_by="label",
            num_shards_per_partition=data.shards_per_client,
            seed=seed,
        )
    by_size: dict[str, Callable[[int], Partitioner]] = {
        "linear": LinearPartitioner,
        "square": SquarePartitioner,
        "exponential": ExponentialPartitioner,
    }
    return by_size[data.partitioner](num_clients)


def _check(labels: Rows, data: DataConfig, num_clients: int, name: str) -> None:
    """Refuse what is impossible before anything is drawn."""
    images = f"'{name}' has {len(labels)} training images"
    if num_clients < 1:
        raise ConfigError(f"num-clients is {num_clients}: at least one client must take part.")
    if num_clients > len(labels):
        raise ConfigError(
            f"{images}, too few for {num_clients} clients. Lower num-clients (or start fewer "
            "SuperNodes), or raise data.max-train-samples."
        )
    needed = num_clients * max(1, data.min_partition_size)
    if data.partitioner == "dirichlet" and needed > len(labels):
        raise ConfigError(
            f"{images}: {num_clients} clients cannot each have data.min-partition-size = "
            f"{data.min_partition_size}. Lower it, or the number of clients."
        )
    present = len(np.unique(labels))
    if data.partitioner == "pathological" and data.classes_per_client > present:
        raise ConfigError(
            f"data.classes-per-client is {data.classes_per_client}, but the training images of "
            f"'{name}' are of {present} classes. Set it to at most {present}."
        )
    num_shards = num_clients * data.shards_per_client
    if data.partitioner == "shard" and num_shards > len(labels):
        raise ConfigError(
            f"{images}, too few for {num_shards} shards ({num_clients} clients with "
            f"data.shards-per-client = {data.shards_per_client} each). Lower one of the two."
        )


def _impossible(
    data: DataConfig, num_clients: int, num_images: int, name: str, error: ValueError
) -> str:
    what = f"The {num_images} training images of '{name}' cannot be divided among {num_clients}"
    if data.partitioner == "dirichlet":
        return (
            f"{what} clients by dirichlet with data.alpha = {data.alpha}: in each of ten draws, "
            f"some client got fewer than data.min-partition-size = {data.min_partition_size} "
            "images. Raise data.alpha, or lower data.min-partition-size or num-clients."
        )
    if data.partitioner == "pathological":
        return (
            f"{what} clients with data.classes-per-client = {data.classes_per_client}: a class "
            "has fewer images than clients that draw it. Lower data.classes-per-client or "
            "num-clients."
        )
    if data.partitioner in ("linear", "square", "exponential"):
        return (
            f"{what} clients by {data.partitioner}: the first client would get no image. Lower "
            "num-clients, or raise data.max-train-samples."
        )
    return f"{what} clients by {data.partitioner}: {error}"
