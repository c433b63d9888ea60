"""Training on the images of all clients together, for the strategy `centralized`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedsplit.algorithms import strategy_class
from fedsplit.config import Config
from fedsplit.data.augment import augmentation
from fedsplit.data.loader import device_batches
from fedsplit.data.shards import load_pool
from fedsplit.models.split import join_parts
from fedsplit.models.trainable import layer_rates
from fedsplit.preparation import Preparation
from fedsplit.seeding import generator
from fedsplit.split.local import Batch, PooledTraining
from fedsplit.split.training import Training


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
