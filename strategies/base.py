"""What all strategies share: a Flower strategy around any aggregator and, if split, a split server.

A strategy samples by partition id, hands each participant what it needs for the round, decides
whose contributions count, and lets the aggregator combine them in the order of partition ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from logging import INFO, WARNING
from typing import ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsplit.config import Config
from fedsplit.errors import RunError
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import Purpose, RoundReport, SplitServer
from strategies.aggregation import SampledGrid, make_aggregator
from strategies.clients import Clients
from strategies.replies import (
    arrays_bytes,
    fault_of_metrics,
    fault_of_train_reply,
    in_order_of,
    num_examples_of,
    sort_replies,
    with_dtypes_of,
)

Note = Callable[..., None]


@dataclass(frozen=True)
class _Round:
    """A round in flight: who was asked, with which weights."""

    participants: Mapping[int, int]
    sent: ArrayRecord
    started: float


class FederatedStrategy(Strategy):
    """A strategy over known clients.

    Parameters
    ----------
    config : Config
        The run's configuration.
    clients : Clients
        Everyone who can be sampled.
    facts : Mapping[str, str | int]
        What every message tells its client.
    note : Note
        Takes what a round gave, as keyword arguments (see `fedsplit.results.recorder`).
    server : SplitServer | None
        The other half of the model, if it is split.
    """

    rule: ClassVar[type[UpdateRule] | None] = None
    """How the server part learns; None trains the whole model at the clients."""

    def __init__(
        self,
        *,
        config: Config,
        clients: Clients,
        facts: Mapping[str, str | int],
        note: Note,
        server: SplitServer | None,
    ) -> None:
        self.config = config
        self.clients = clients
        self.server = server
        self.aggregator = make_aggregator(config.aggregation)
        self._facts = facts
        self._note = note
        self._round = _Round({}, ArrayRecord(), 0.0)

    def summary(self) -> None:
        """Log what the strategy is."""
        split = f"cut {self.config.split.cut_layer}" if self.server else "unsplit"
        log(INFO, "\t├── Strategy: %s (%s)", self.config.strategy, split)
        log(INFO, "\t├── Aggregator: %s", type(self.aggregator).__name__)
        log(INFO, "\t└── Clients: %d", len(self.clients.node_ids))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample participants, open the round, and give each its weights and its token."""
        sampled = self.clients.sample(
            self.config.fraction_train, self.config.seed, "train", server_round
        )
        node_ids = self._open_round(Purpose.TRAIN, sampled, arrays)
        messages = self.aggregator.configure_train(
            server_round, arrays, config, SampledGrid(grid, node_ids)
        )
        return self._address(messages, Purpose.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Close the round, and aggregate the contributions that are whole.

        Raises
        ------
        RunError
            If no participant's contribution is.
        """
        good, failures = sort_replies(replies, self._round.participants)
        report = self._close_streams()
        check = partial(fault_of_train_reply, sent=self._round.sent)
        _reject(good, failures, report, check)
        for client, reason in sorted(failures.items()):
            log(WARNING, "Client %d is left out of round %d: %s", client, server_round, reason)
        if not good:
            reason = failures[min(failures)]
            raise RunError(f"Every participant of round {server_round} failed. First: {reason}")
        weights = {client: num_examples_of(reply) for client, reply in good.items()}
        self._note_train(good, failures, weights, report)  # some aggregators empty the replies
        arrays, metrics = self._aggregate(server_round, list(good.values()))
        if self.server is not None:
            self.server.close_round(weights)
        self._note(train_loss=metrics["loss"], train_accuracy=metrics["accuracy"])
        return arrays, metrics

    def _aggregate(
        self, server_round: int, replies: list[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Combine checked replies, all of whose weights are in one order."""
        for reply in replies:
            weights = reply.content.array_records["arrays"]
            reply.content["arrays"] = in_order_of(weights, self._round.sent)
        count, name = len(replies), type(self.aggregator).__name__
        arrays, metrics = self.aggregator.aggregate_train(server_round, replies)
        # Half a model must not move without the other.
        if arrays is None or metrics is None:
            raise RunError(
                f"The aggregator {name} makes nothing of the {count} contributions of round "
                f"{server_round}. Use more clients, another aggregation.name, or other "
                f"aggregation.options than '{self.config.aggregation.options}'."
            )
        arrays = with_dtypes_of(arrays, self._round.sent)
        if not all(np.isfinite(array.numpy()).all() for array in arrays.values()):
            raise RunError(
                f"The weights that {name} makes in round {server_round} have NaN or infinity in "
                f"them. Change aggregation.options = '{self.config.aggregation.options}', or "
                "lower learning-rate."
            )
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample who evaluates on its own validation split."""
        sampled = self.clients.sample(
            self.config.fraction_evaluate, self.config.seed, "evaluate", server_round
        )
        node_ids = self._open_round(Purpose.EVALUATE, sampled, arrays)
        if not node_ids:
            return []
        messages = self.aggregator.configure_evaluate(
            server_round, arrays, config, SampledGrid(grid, node_ids)
        )
        return self._address(messages, Purpose.EVALUATE)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average what the clients measured; one that failed only leaves its own share out."""
        good, failures = sort_replies(replies, self._round.participants)
        report = self._close_streams()
        _reject(good, failures, report, fault_of_metrics)
        for client, reason in sorted(failures.items()):
            log(WARNING, "Client %d did not evaluate round %d: %s", client, server_round, reason)
        with_examples = [reply for reply in good.values() if num_examples_of(reply) > 0]
        metrics = self.aggregator.aggregate_evaluate(server_round, with_examples)
        self._note(evaluate_seconds=time.perf_counter() - self._round.started)
        weights = arrays_bytes(self._round.sent) * len(self._round.participants)
        self._note(
            evaluate_uplink_bytes=report.traffic.uplink_bytes if report else 0,
            evaluate_downlink_bytes=(report.traffic.downlink_bytes if report else 0) + weights,
        )
        if metrics is not None:
            self._note(
                validation_loss=metrics["loss"],
                validation_accuracy=metrics["accuracy"],
            )
        return metrics

    def _open_round(self, purpose: Purpose, sampled: list[int], arrays: ArrayRecord) -> list[int]:
        participants = {client: self.clients.node_ids[client] for client in sampled}
        self._round = _Round(participants, arrays, time.perf_counter())
        self._tokens = self.server.open_round(purpose, sampled) if self.server else {}
        return list(participants.values())

    def _address(self, messages: Iterable[Message], purpose: Purpose) -> list[Message]:
        """Give every message a config of its own, in the order of partition ids."""
        partition_of = {node: client for client, node in self._round.participants.items()}
        addressed: dict[int, Message] = {}
        for message in messages:
            client = partition_of[message.metadata.dst_node_id]
            config = ConfigRecord({**message.content.config_records["config"], **self._facts})
            if client in self._tokens:
                config["channel-token"] = self._tokens[client]
            content = RecordDict({"arrays": self._round.sent, "config": config})
            addressed[client] = Message(
                content=content,
                message_type=message.metadata.message_type,
                dst_node_id=message.metadata.dst_node_id,
            )
        return [addressed[client] for client in sorted(addressed)]

    def _close_streams(self) -> RoundReport | None:
        return self.server.report() if self.server is not None else None

    def _note_train(
        self,
        good: Mapping[int, Message],
        failures: Mapping[int, str],
        weights: Mapping[int, int],
        report: RoundReport | None,
    ) -> None:
        returned = (arrays_bytes(reply.content.array_records["arrays"]) for reply in good.values())
        self._note(
            num_participants=len(self._round.participants),
            failed_clients=sorted(failures),
            num_examples=sum(weights.values()),
            train_seconds=time.perf_counter() - self._round.started,
            sync_uplink_bytes=sum(returned),
            sync_downlink_bytes=arrays_bytes(self._round.sent) * len(self._round.participants),
        )
        if report is not None:
            self._note(
                cut_uplink_bytes=report.traffic.uplink_bytes,
                cut_downlink_bytes=report.traffic.downlink_bytes,
            )


def _reject(
    good: dict[int, Message],
    failures: dict[int, str],
    report: RoundReport | None,
    fault_of: Callable[..., str | None],
) -> None:
    """Move every reply that does not count from the good ones to the failures."""
    for client, reply in list(good.items()):
        seen = report.num_examples.get(client, 0) if report else None
        fault = fault_of(reply, num_examples=seen)
        if fault is not None:
            failures[client] = report.failures.get(client, fault) if report else fault
            del good[client]
