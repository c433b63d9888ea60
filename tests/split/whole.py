"""The algorithms on an uncut ViT in plain PyTorch: the reference for every cut."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from fedsplit.config import Config
from tests.split.chains import Points, u_shaped, whole_of
from tests.split.reference import Data, examples_in
from tests.split.toys import Batch, Weights, average_by_hand, optimizer_of, weights_of


class Whole:
    """One model, of which each participant has some weights of its own and all share the rest.

    A participant owns the stages that clients hold; its optimizer lives for one round. The
    optimizer of the shared weights lasts.
    """

    def __init__(self, points: Points, config: Config) -> None:
        self.model = whole_of()
        self.held: dict[int, Weights] = {}
        self._config = config
        named = dict(self.model.named_parameters())
        self._own = [name for name in named if _at_client(name, points)]
        self._shared = [named[name] for name in named if name not in self._own]
        self._optimizer = optimizer_of(self._shared, config)
        self._participants: dict[int, tuple[dict[str, nn.Parameter], Optimizer]] = {}

    @property
    def own(self) -> Weights:
        """The average of the weights that clients hold."""
        return {n: t for n, t in weights_of(self.model).items() if n in self._own}

    @property
    def shared(self) -> Weights:
        """The weights that the server holds."""
        return {n: t for n, t in weights_of(self.model).items() if n not in self._own}

    def train(self, batches: Iterable[Batch]) -> None:
        """Train the whole model with a fresh optimizer."""
        self.held = {}  # no participant has its own weights
        optimizer = optimizer_of(self.model.parameters(), self._config)
        for images, labels in batches:
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(self.model(images).logits, labels))
            optimizer.step()

    def fedavg(self, data: Data, accepted: Collection[int] | None = None) -> None:
        """Train the whole model at each participant, and average all its weights."""
        before, trained = weights_of(self.model), {}
        for k, batches in data.items():
            self.model.load_state_dict(before)
            self.train(batches)
            trained[k] = weights_of(self.model)
        self.held = {k: {n: each[n] for n in self._own} for k, each in trained.items()}
        self._average(trained, data, accepted)

    def in_turn(
        self, data: Data, order: Iterable[Sequence[int]], accepted: Collection[int] | None = None
    ) -> None:
        """Take one step on each participant's batch in the order given."""
        self._open(data)
        for step, participants in enumerate(order):
            for k in participants:
                _, optimizer = self._participants[k]
                for each in (optimizer, self._optimizer):
                    each.zero_grad()
                torch.autograd.backward(self._loss(k, data[k][step]))
                for each in (optimizer, self._optimizer):
                    each.step()
        self._close(data, accepted)

    def concatenated(self, data: Data, accepted: Collection[int] | None = None) -> None:
        """Take one step on everyone's t-th batch: each example weighs the same."""
        self._open(data)
        for step in range(max(map(len, data.values()))):
            batches = {k: b[step] for k, b in data.items() if step < len(b)}
            losses = {k: self._loss(k, batch) for k, batch in batches.items()}
            sizes = {k: len(labels) for k, (_, labels) in batches.items()}
            total = sum(sizes.values())
            mean = sum((losses[k] * (sizes[k] / total) for k in losses), torch.zeros(()))
            _differentiate(mean, self._shared)
            for k, loss in losses.items():
                _differentiate(loss, list(self._participants[k][0].values()))
            for optimizer in (self._optimizer, *(self._participants[k][1] for k in batches)):
                optimizer.step()
        self._close(data, accepted)

    def _loss(self, participant: int, batch: Batch) -> Tensor:
        images, labels = batch
        own, _ = self._participants[participant]
        loss: Tensor = cross_entropy(functional_call(self.model, {**own}, (images,)).logits, labels)
        return loss

    def _open(self, data: Data) -> None:
        self._participants = {}
        for k in data:
            own = {name: nn.Parameter(tensor) for name, tensor in self.own.items()}
            self._participants[k] = own, optimizer_of(own.values(), self._config)

    def _close(self, data: Data, accepted: Collection[int] | None) -> None:
        self.held = {
            k: {name: weight.detach().clone() for name, weight in own.items()}
            for k, (own, _) in self._participants.items()
        }
        self._average(self.held, data, accepted)

    def _average(
        self, trained: Mapping[int, Weights], data: Data, accepted: Collection[int] | None
    ) -> None:
        counts = {k: examples_in(data[k]) for k in sorted(data if accepted is None else accepted)}
        average = average_by_hand([trained[k] for k in counts], list(counts.values()))
        self.model.load_state_dict(average, strict=False)  # the rest is shared


def _at_client(name: str, points: Points) -> bool:
    stage = 0 if name.startswith("vit.embeddings.") else 3
    if block := re.search(r"\.layers?\.(\d+)\.", name):
        stage = 1 + int(block[1])
    return stage < points[0] or (u_shaped(points) and stage >= points[1])


def _differentiate(loss: Tensor, weights: Sequence[nn.Parameter]) -> None:
    gradients = torch.autograd.grad(loss, weights, retain_graph=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
