"""SplitFed V3: one server part, a bottom for each client.

Gawali et al., "Comparison of Privacy-Preserving Distributed Deep Learning Methods in Healthcare",
MIUA 2021 (arXiv:2012.12591).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from flwr.app import ArrayRecord, Message, MetricRecord

from fedsplit.arrays import to_record, to_state
from fedsplit.messages import ACCURACY, LOSS
from fedsplit.snapshot import Snapshot
from fedsplit.split.client_rules import OwnBottom
from fedsplit.split.copies import PerParticipantCopies
from strategies.base import FederatedStrategy
from strategies.context import RunContext
from strategies.kept import KeptByClients
from strategies.replies import mean_of_metrics, weights_of


class SFLV3(FederatedStrategy):
    """As SFLV1, but each client keeps its own bottom.

    In a round, for every participant k at the same time:

    1. k takes the bottom W_b,k that it has kept; the server makes a copy W_s,k of its part.
    2. Both train as in SFLV1, and k keeps W_b,k.

    Then ``W_s = sum(n_k / n * W_s,k)`` by the split server. No bottom is aggregated. A client is
    sent one only the first time, and after it has failed. Clients send theirs to be scored: a
    test score is the mean over all clients of the score of W_b,k with W_s. These bytes count as
    evaluation.
    """

    client_rule = OwnBottom
    update_rule = PerParticipantCopies
    aggregates = False

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._kept = KeptByClients(self._weights_kept_by)
        self._own: dict[int, ArrayRecord] = {}  # every client's bottom, as last seen
        self._up_to_date: set[int] = set()  # clients that have kept theirs

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the server's copies only."""
        answered = self._accept(server_round, replies)
        self._scored_bytes = sum(answered.sync_uplink.values())
        # Clients send their bottoms only to be scored.
        self._note_train(server_round, [replace(answered, sync_uplink={})])
        for client in answered.failures:
            self._up_to_date.discard(client)
        for client, reply in answered.good.items():
            self._own[client] = weights_of(reply)
            self._up_to_date.add(client)
        self._close_round(answered)
        metrics = mean_of_metrics(list(answered.good.values()))
        self._note(train_loss=metrics[LOSS], train_accuracy=metrics[ACCURACY])
        return None, metrics

    def to_score(self, arrays: ArrayRecord) -> Sequence[ArrayRecord]:
        """Return every client's bottom; `arrays` is that of clients that have not trained yet."""
        if not self._own or not arrays:  # before the first round, or frozen: all have the same
            return [arrays]
        return [self._own.get(client, arrays) for client in self.clients.class_counts]

    def state_dict(self) -> Snapshot:
        """Return what outlives a round: also every client's bottom, and who need not be sent it."""
        own = {str(client): dict(to_state(arrays)) for client, arrays in self._own.items()}
        return {**super().state_dict(), "own": own, "up_to_date": sorted(self._up_to_date)}

    def load_state_dict(self, state: Snapshot) -> None:
        """Continue from what `state_dict` returned."""
        super().load_state_dict(state)
        self._own = {int(client): to_record(tensors) for client, tensors in state["own"].items()}
        self._up_to_date = set(state["up_to_date"])

    def _began_with(self, client: int) -> ArrayRecord:
        return self._own.get(client, self._asked.sent)

    def _weights_kept_by(self, client: int) -> ArrayRecord:
        return self._own[client] if client in self._up_to_date else ArrayRecord()

    def _weights_for(self, client: int) -> ArrayRecord:
        if client in self._up_to_date:
            return ArrayRecord()
        return self._own.get(client, self._asked.sent)
