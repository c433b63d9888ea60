"""The clients of a run, known and sampled by partition id.

Flower's node ids are random and its `sample_nodes` is unseeded, so neither can decide anything
in a run that has to repeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from fedsplit.config import Config
from fedsplit.names import some
from fedsplit.seeding import generator
from fedsplit.split.client_rules import ClientRule
from fedsplit.split.phases import Purpose
from fedsplit.split.totals import Work


@dataclass(frozen=True)
class Clients:
    """The clients of a run.

    Attributes
    ----------
    node_ids : Mapping[int, int]
        Partition id -> Flower node id, sorted by partition id; without those that are left out.
    class_counts : Mapping[int, Sequence[int]]
        Partition id -> training images of each class, of all clients: 0 of those that have been
        left out of the run so far.
    digests : Mapping[int, str]
        Partition id -> digest of its images; empty if the run writes no checkpoints.
    validation : Mapping[int, int]
        Partition id -> images that it holds out for federated evaluation.
    own_images : Sequence[int]
        Those whose training images are of a folder of their own, and no shard of data.name.
    """

    node_ids: Mapping[int, int]
    class_counts: Mapping[int, Sequence[int]]
    digests: Mapping[int, str] = field(default_factory=dict)
    validation: Mapping[int, int] = field(default_factory=dict)
    own_images: Sequence[int] = ()

    def divided_by(self, partitioner: str) -> str:
        """Return in words how the clients came by their images: a partitioner divides data.name."""
        if not self.own_images:
            return partitioner
        if set(self.own_images) >= set(self.node_ids):
            return "own images"
        return f"{partitioner}; own images: client {some(list(map(str, self.own_images)))}"

    @property
    def num_validation(self) -> int:
        """Images that all clients together hold out."""
        return sum(self.validation.values())

    def work(
        self, purpose: Purpose, clients: Iterable[int], config: Config, rule: type[ClientRule]
    ) -> dict[int, Work]:
        """Return what the images of clients allow each of them to do in a round."""
        if purpose is Purpose.TRAIN:
            size, epochs, often = config.batch_size, config.local_epochs, rule.steps_per_batch
            return {k: Work.of(sum(self.class_counts[k]), size, epochs, often) for k in clients}
        return {k: Work.of(self.validation.get(k, 0), config.batch_size) for k in clients}

    def sample(self, fraction: float, seed: int, *names: str | int) -> list[int]:
        """Return a seeded sample of partition ids, sorted; at least one unless the fraction is 0.

        Parameters
        ----------
        fraction : float
            Part of all clients.
        seed : int
            The run's seed.
        *names : str | int
            What the sample is for, such as ``"train", server_round``.
        """
        if fraction == 0.0:
            return []
        clients = list(self.node_ids)
        size = sample_size(fraction, len(clients))
        order = torch.randperm(len(clients), generator=generator(seed, "sample", *names))
        return sorted(clients[index] for index in order[:size].tolist())


def sample_size(fraction: float, total: int) -> int:
    """Return how many of all clients a round samples, if it samples any."""
    return max(1, round(fraction * total))
