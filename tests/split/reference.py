"""The algorithms in plain PyTorch, without sessions, rules or threads, for comparison."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from fedsplit.boundary import State
from fedsplit.config import Config
from fedsplit.split.in_turn import InTurn
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import SplitServer
from fedsplit.split.steps import PendingStep, StepResult, output_gradient
from fedsplit.split.training import Training
from tests.split.toys import (
    CUT,
    Batch,
    Client,
    Weights,
    average_by_hand,
    batches_of,
    bottom_of,
    config_of,
    optimizer_of,
    server_part_of,
    settings_of,
    weights_of,
)

Data = Mapping[int, Sequence[Batch]]
Answer = TypeVar("Answer")


class Central:
    """One server part with a lasting optimizer; a fresh bottom per participant and round."""

    def __init__(self, config: Config) -> None:
        self.server_part = server_part_of()
        self.bottom = weights_of(bottom_of())
        self._config = config
        self._optimizer = optimizer_of(self.server_part.parameters(), config)
        self._bottoms: dict[int, tuple[nn.Module, Optimizer]] = {}

    def in_turn(
        self, data: Data, order: Iterable[Sequence[int]], accepted: Collection[int] | None = None
    ) -> dict[int, Weights]:
        """Take one step on each participant's batch in the order given; average the accepted."""
        self._open(data)
        for step, participants in enumerate(order):
            for k in participants:
                images, labels = data[k][step]
                bottom, optimizer = self._bottoms[k]
                for each in (optimizer, self._optimizer):
                    each.zero_grad()
                loss = cross_entropy(self.server_part(bottom(images)), labels)
                torch.autograd.backward(loss)
                for each in (optimizer, self._optimizer):
                    each.step()
        return self._close(data, data if accepted is None else accepted)

    def concatenated(
        self, data: Data, accepted: Collection[int] | None = None
    ) -> dict[int, Weights]:
        """Take one step on everyone's t-th batch; each bottom descends its own mean loss."""
        self._open(data)
        for step in range(max(map(len, data.values()))):
            self._step_on_all({k: b[step] for k, b in sorted(data.items()) if step < len(b)})
        return self._close(data, data if accepted is None else accepted)

    def _step_on_all(self, batches: Mapping[int, Batch]) -> None:
        own = {k: self._bottoms[k] for k in batches}
        hidden = [own[k][0](images) for k, (images, _) in batches.items()]
        labels = torch.cat([labels for _, labels in batches.values()])
        losses = cross_entropy(self.server_part(torch.cat(hidden)), labels, reduction="none")
        parts = torch.split(losses, [len(labels) for _, labels in batches.values()])
        for (bottom, _), part in zip(own.values(), parts, strict=True):
            weights = list(bottom.parameters())
            gradients = torch.autograd.grad(part.mean(), weights, retain_graph=True)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
        weights = list(self.server_part.parameters())
        for weight, gradient in zip(
            weights, torch.autograd.grad(losses.mean(), weights), strict=True
        ):
            weight.grad = gradient
        for optimizer in (self._optimizer, *(optimizer for _, optimizer in own.values())):
            optimizer.step()

    def _open(self, data: Data) -> None:
        self._bottoms = {}
        for k in data:
            bottom = bottom_of()
            bottom.load_state_dict(self.bottom)
            self._bottoms[k] = bottom, optimizer_of(bottom.parameters(), self._config)

    def _close(self, data: Data, accepted: Collection[int]) -> dict[int, Weights]:
        trained = {k: weights_of(bottom) for k, (bottom, _) in self._bottoms.items()}
        counts = {k: examples_in(data[k]) for k in sorted(accepted)}
        self.bottom = average_by_hand([trained[k] for k in counts], list(counts.values()))
        return trained


def server_step(
    server_part: nn.Module,
    optimizer: Optimizer,
    smashed: State,
    labels: Tensor,
    training: Training | None = None,
) -> tuple[StepResult, State]:
    """Train a server part on one batch, with the arithmetic of the product."""
    optimizer.zero_grad(set_to_none=True)
    pending = PendingStep(server_part, smashed)
    assert isinstance(pending.output, Tensor)
    result, gradient = output_gradient(pending.output, labels)
    cut_gradient = pending.backward(gradient)
    (Training.of_clients(config_of()) if training is None else training).update(optimizer)
    return result, cut_gradient


def examples_in(batches: Iterable[Batch]) -> int:
    return sum(len(labels) for _, labels in batches)


def data_of(**sizes: Sequence[int]) -> dict[int, list[Batch]]:
    """Return batches of these sizes: ``data_of(k0=(8, 3), k4=(1,))`` for participants 0, 4."""
    return {int(name[1:]): batches_of(int(name[1:]), *each) for name, each in sizes.items()}


def serving(kind: type[UpdateRule], config: Config | None = None) -> SplitServer:
    """Return a server of this rule."""
    rule = kind(server_part_of(), settings_of(config))
    return SplitServer(rule=rule, wire=CUT)


def rule_in(server: SplitServer) -> UpdateRule:
    return server.rule


def order_in(server: SplitServer) -> list[tuple[int, ...]]:
    assert isinstance(server.rule, InTurn)
    return server.rule.order


def at_once(
    work: Callable[[int], Answer], participants: Iterable[int], *, seconds: float = 15.0
) -> dict[int, Answer]:
    """Call `work` for each participant, in threads of their own; all must end in time."""
    answers: dict[int, Answer] = {}
    errors: list[BaseException] = []

    def run(participant: int) -> None:
        try:
            answers[participant] = work(participant)
        except BaseException as error:
            errors.append(error)

    threads = {k: threading.Thread(target=run, args=(k,), daemon=True) for k in participants}
    deadline = time.monotonic() + seconds
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    assert [k for k, thread in threads.items() if thread.is_alive()] == []
    if errors:
        raise errors[0]
    return answers


def train_round(
    server: SplitServer,
    address: str,
    data: Data,
    *,
    server_round: int = 1,
    bottom: Mapping[str, Tensor] | None = None,
    config: Config | None = None,
) -> dict[int, Weights]:
    """Train one round, all participants at once, and close it; return their bottoms."""
    tokens = server.open_round(Purpose.TRAIN, sorted(data), server_round)

    def train(k: int) -> Weights:
        own = bottom_of()
        if bottom is not None:
            own.load_state_dict(bottom)
        return Client(address, tokens[k], bottom=own, config=config).train(data[k])

    trained = at_once(train, data)
    report = server.report()
    assert report.failures == {}
    assert report.num_examples == {k: examples_in(data[k]) for k in data}
    server.close_round(report.num_examples)
    return trained


def averaged(trained: Mapping[int, Weights], data: Data) -> Weights:
    """Return the bottoms' average by n_k."""
    return average_by_hand(
        [trained[k] for k in sorted(trained)], [examples_in(data[k]) for k in sorted(trained)]
    )
