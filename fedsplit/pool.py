"""Training on the images of all clients together, for the strategy `centralized`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from fedsplit.algorithms import strategy_class
from fedsplit.config import Config
from fedsplit.data.augment import augmentation
from fedsplit.data.loader import device_batches
from fedsplit.data.shards import load_pool, look_at_shard
from fedsplit.input_spec import InputSpec
from fedsplit.models.split import join_parts
from fedsplit.models.trainable import layer_rates
from fedsplit.names import some
from fedsplit.preparation import Preparation
from fedsplit.run_log import warn
from fedsplit.seeding import generator
from fedsplit.split.local import Batch, PooledTraining
from fedsplit.split.training import Training
from strategies.clients import Clients


def with_counts_of_pool(config: Config, clients: Clients, spec: InputSpec) -> Clients:
    """Return the clients with the training images that the pool has of each.

    Those of a site with a ``data-path`` are others, and one that was left out has named none. Under
    other strategies, nothing changes.

    Raises
    ------
    FedSplitError
        As `load_pool`.
    """
    if not strategy_class(config.strategy).pooled:
        return clients
    described, num_clients = clients.class_counts, len(clients.class_counts)
    counts: dict[int, list[int]] = {}
    for client, of_client in described.items():
        labels = look_at_shard(config, client, num_clients, spec).train.labels
        counts[client] = torch.bincount(labels, minlength=len(of_client)).tolist()
    if others := [k for k, found in counts.items() if found != list(described[k])]:
        warn(
            f"strategy = '{config.strategy}' trains on the server's images of data.name only, not "
            f"on others that sites hold. These differ: client {some(list(map(str, others)))}."
        )
    return replace(clients, class_counts=counts, own_images=())


def pooled_training(
    config: Config, prepared: Preparation, num_clients: int, class_weights: Sequence[float]
) -> PooledTraining | None:
    """Return training on the images of all clients together, if the strategy asks for it."""
    if not strategy_class(config.strategy).pooled:
        return None
    images = load_pool(config, num_clients, prepared.spec)

    def batches_of(server_round: int) -> Iterator[Batch]:
        for epoch in range(config.local_epochs):
            yield from device_batches(
                images,
                config.batch_size,
                device=config.server_device,
                generator=generator(config.seed, "pooled batches", server_round, epoch),
                last=config.last_batch,
                augment=augmentation(config, "pooled", server_round, epoch),
            )

    rates = layer_rates(prepared.model, config.layer_decay)
    training = Training.of_clients(config, class_weights=class_weights, layer_rates=rates)
    whole = join_parts(*prepared.model)
    whole.autocast = prepared.autocast
    return PooledTraining(whole, batches_of, training)
