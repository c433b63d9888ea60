"""The upper reference: the whole model, trained on the pooled images of all clients."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedsplit.arrays import to_record
from fedsplit.errors import RunError
from fedsplit.exchanged_state import exchanged
from fedsplit.links import link_of
from fedsplit.messages import ACCURACY, LOSS
from fedsplit.split.client_rules import WholeModel
from strategies.base import FederatedStrategy


class Centralized(FederatedStrategy):
    """The server trains on the training images of all clients together, in a random order.

    A round is `local-epochs` passes over them, with one optimizer for the run. Clients only
    evaluate, on their validation splits, which are not trained on. Nothing is synchronised, and
    the cost of sending the images is not counted.
    """

    client_rule = WholeModel
    update_rule = None
    pooled = True
    aggregates = False

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Train here; nothing is left for Flower to send."""
        assert self.pool is not None
        started = time.perf_counter()
        result = self.pool.train(server_round)
        if not math.isfinite(result.loss):
            raise RunError(
                f"Training diverged: the loss of round {server_round} is {result.loss}. Lower "
                "learning-rate."
            )
        self._metrics = MetricRecord({LOSS: result.loss, ACCURACY: result.accuracy})
        self._note(
            train_loss=result.loss,
            train_accuracy=result.accuracy,
            num_participants=0,
            num_examples=result.num_examples,
            train_seconds=time.perf_counter() - started,
            sync_uplink_bytes=0,
            sync_downlink_bytes=0,
            simulated_communication_seconds=None if link_of(self.config.network) is None else 0.0,
        )
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the weights as they are."""
        assert self.pool is not None
        return to_record(exchanged(self.pool.model)), self._metrics
