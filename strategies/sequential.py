"""The original split learning: one client after another.

Gupta & Raskar, "Distributed learning of deep neural network over multiple agents", Journal of
Network and Computer Applications 116, 2018, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedsplit.fields import checked_values, combine
from fedsplit.messages import ACCURACY, LOSS
from fedsplit.seeding import generator
from fedsplit.split.client_rules import SplitClient
from fedsplit.split.in_turn import InTurn
from strategies.answers import Answered
from strategies.base import FederatedStrategy
from strategies.replies import mean_of_metrics, weights_of


class Sequential(FederatedStrategy):
    """Clients train one after another, each with the bottom of the one before.

    In a round, for each participant k in a new random order:

    1. k receives the bottom W_b that the previous client returned.
    2. For each batch, k sends smashed data and labels; the server takes one step on the one W_s,
       with one optimizer for the run, and returns the cut gradient, with which k takes one step.
    3. k returns W_b, which goes to the next client. With `accumulate-batches`, both sides first
       take a step on the batches that are left.

    A client that fails returns no bottom, so the next one starts where the failed one did. The
    steps that the server part has taken with it are kept.
    """

    client_rule = SplitClient
    update_rule = InTurn
    aggregates = False

    def order(self, server_round: int, sampled: Sequence[int]) -> list[int]:
        """Return the participants in the order in which they train."""
        random = generator(self.config.seed, "relay", server_round)
        return [sampled[i] for i in torch.randperm(len(sampled), generator=random).tolist()]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the participants train, one message at a time; none is left for Flower to send."""
        self._begin_round()
        self._visits: list[Answered] = []
        self._turns: dict[int, dict[str, float]] = {}  # client -> what the rule has measured
        self._relayed = arrays
        for client in self.order(server_round, self._sample(server_round)):
            messages = self._ask_to_train(server_round, [client], self._relayed, config, grid)
            replies = grid.send_and_receive(messages, timeout=self.config.round_timeout)
            self._visits.append(self._accept(server_round, replies))
            self._close_round(self._visits[-1])
            for reply in self._visits[-1].good.values():
                self._relayed = weights_of(reply)
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the bottom of the last client."""
        self._note_train(server_round, self._visits)
        metrics = mean_of_metrics([r for visit in self._visits for r in visit.good.values()])
        self._note(train_loss=metrics[LOSS], train_accuracy=metrics[ACCURACY])
        return self._relayed, metrics

    def _close_round(self, answered: Answered) -> None:
        """Close a client's turn, and combine what the update rule has measured in all of them."""
        super()._close_round(answered)
        assert self.server is not None
        rule, (client,) = self.server.rule, answered.participants
        self._turns[client] = checked_values(rule.measured(), rule.metrics, rule=type(rule))
        weights = dict.fromkeys(self._turns, 0)
        for visit in self._visits:
            weights |= visit.weights
        for field in rule.metrics:
            if field.over_clients != "none":
                values = {k: measured[field.key] for k, measured in self._turns.items()}
                self._note(**{field.key: combine(field, values, weights)})
