from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest
import torch

from fedsplit import simulate
from fedsplit.boundary import State, length
from fedsplit.fields import Metric
from fedsplit.seeding import generator
from fedsplit.split.in_turn import InTurn
from strategies.sequential import Sequential
from tests.conftest import Run, distance, weights
from tests.strategies import by_hand

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


def test_each_client_goes_on_with_the_bottom_of_the_one_before(
    run: Run, plain_threads: None
) -> None:
    """Break it: give each client the bottom of the round's beginning, or keep one order."""
    images, parts = by_hand.shards(), by_hand.initial_parts()
    rest = parts.server_part()
    of_server = by_hand.sgd(rest)
    for server_round in by_hand.ROUNDS:
        random = generator(by_hand.SEED, "relay", server_round)
        for client in torch.randperm(len(images), generator=random).tolist():
            of_client = by_hand.sgd(parts.bottom)
            for batch in by_hand.batches_of(images[client], client, server_round):
                loss = by_hand.loss_of(parts.bottom, rest, batch)
                by_hand.descend(loss, of_server, of_client)
    assert distance(weights(run(strategy="sequential")), parts.merge().state_dict()) < 1e-6


def test_u_shaped_sequential_equals_vanilla(run: Run) -> None:
    """With plain SGD: the top's momentum lasts at the server, and at a client for a round.

    Break it: relay the bottom without the top.
    """
    one = run(strategy="sequential", momentum=0.0)
    other = run(strategy="sequential", momentum=0.0, split_topology="u-shaped")
    assert distance(weights(one), weights(other)) < 1e-6


class Counting(InTurn):
    metrics = (
        Metric("all_examples", "examples of a round", over_clients="sum", over_rounds="sum"),
        Metric("most_examples", "examples of the largest client", over_clients="max"),
        Metric("mean_examples", "examples of a client"),
        Metric("last_examples", "examples of the last client", over_clients="none"),
    )

    def open_round(
        self,
        server_round: int,
        participants: Collection[int],
        *given: Any,  # noqa: ANN401
    ) -> None:
        super().open_round(server_round, participants, *given)
        self._count = 0

    def backward(self, participant: int, gradient: State) -> State:
        self._count += length(gradient)
        return super().backward(participant, gradient)

    def measured(self) -> Mapping[str, float]:
        return {metric.key: self._count for metric in self.metrics}


class Counted(Sequential):
    update_rule = Counting


def test_what_the_rule_measures_in_a_round_is_of_all_clients(tiny: dict[str, object]) -> None:
    """Break it: note what it has measured in the last client's turn."""
    result = simulate(tiny, strategy=Counted)
    sizes = [len(images) for images in by_hand.shards()]
    each = [result.rounds[0]["num_examples"] // sum(sizes) * size for size in sizes]
    for row in result.rounds:
        assert row["all_examples"] == sum(each) == row["num_examples"]
        assert row["most_examples"] == max(each)
        assert row["mean_examples"] == pytest.approx(sum(n * n for n in each) / sum(each))
        assert row["last_examples"] in each
    assert result.summary["all_examples"] == 2 * sum(each)
