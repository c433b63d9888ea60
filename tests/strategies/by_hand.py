"""Two rounds of TINY written out in plain torch, to compare each strategy with its definition."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsplit import Config, load_split_model
from fedsplit.data.loader import Images, batches
from fedsplit.data.shards import load_shard
from fedsplit.models.loading import input_spec
from fedsplit.models.split import SplitModel
from fedsplit.seeding import generator, seeded_init
from tests.conftest import TINY

SEED, CLIENTS, ROUNDS, EPOCHS = 7, range(4), (1, 2), (0, 1)
Batch = tuple[Tensor, Tensor]


def initial_parts() -> SplitModel:
    """Return the model that every run of TINY starts from, in its three parts."""
    points = Config.load(TINY).split.points
    with seeded_init(SEED, "model"):
        parts = load_split_model("vit-nano", split_points=points, num_labels=10)
    for part in parts:
        part.train()
    return parts


def shards() -> list[Images]:
    """Return each client's training images."""
    config, spec = Config.load(TINY), input_spec("vit-nano")
    return [load_shard(config, client, len(CLIENTS), spec).train for client in CLIENTS]


def batches_of(images: Images, client: int, server_round: int) -> Iterator[Batch]:
    """Yield a client's batches of a round, in its order."""
    for epoch in EPOCHS:
        order = generator(SEED, "batches", server_round, client, epoch)
        for indices in batches(len(images), 8, generator=order):
            yield images.batch(indices)


def steps_of(images: Sequence[Images], server_round: int) -> Iterator[dict[int, Batch]]:
    """Yield for each step of a round the batches of those who still have one, by client."""
    for step in zip_longest(*(batches_of(images[k], k, server_round) for k in CLIENTS)):
        yield {client: batch for client, batch in enumerate(step) if batch is not None}


def rounds_of(
    parts: SplitModel, images: list[Images]
) -> Iterator[tuple[int, dict[int, nn.Module], dict[int, torch.optim.SGD]]]:
    """Yield a round, each client's bottom, and its optimizer; then average the bottoms."""
    for server_round in ROUNDS:
        bottoms = copies(parts.bottom)
        yield server_round, bottoms, {client: sgd(bottom) for client, bottom in bottoms.items()}
        average_into(parts.bottom, bottoms, images)


def sgd(*modules: nn.Module, momentum: float = 0.9) -> torch.optim.SGD:
    """Return TINY's optimizer over some modules together."""
    weights = [weight for module in modules for weight in module.parameters()]
    return torch.optim.SGD(weights, lr=0.02, momentum=momentum)


def loss_of(bottom: nn.Module, rest: nn.Module, batch: Batch) -> Tensor:
    """Return a batch's mean loss, []."""
    pixels, labels = batch
    return cross_entropy(logits_of(rest(bottom(pixels))), labels)


def logits_of(output: object) -> Tensor:
    """Return the logits, [B, classes], of whatever a model returns."""
    logits = output if isinstance(output, Tensor) else vars(output)["logits"]
    assert isinstance(logits, Tensor)
    return logits


def descend(loss: Tensor, *optimizers: torch.optim.Optimizer) -> None:
    """Take one step of each optimizer."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    torch.autograd.backward(loss)
    for optimizer in optimizers:
        optimizer.step()


def average_into(module: nn.Module, trained: Mapping[int, nn.Module], images: list[Images]) -> None:
    """Set a module's weights to sum(n_k / n * W_k)."""
    total = sum(len(images[k]) for k in trained)
    states = {k: part.state_dict() for k, part in trained.items()}
    mean = {
        name: sum(len(images[k]) / total * states[k][name].double() for k in trained).float()
        for name in module.state_dict()
    }
    module.load_state_dict(mean)


def copies(module: nn.Module) -> dict[int, nn.Module]:
    """Return a copy for each client."""
    return {client: copy.deepcopy(module) for client in CLIENTS}
