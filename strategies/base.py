"""What all strategies share: a Flower strategy around any aggregator and, if split, a split server.

A strategy samples by partition id, hands each participant what it needs for the round, decides
whose contributions count, and lets the aggregator combine them in the order of partition ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from logging import INFO, WARNING
from typing import ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsplit.arrays import to_compute, to_state
from fedsplit.config import Config
from fedsplit.errors import RunError
from fedsplit.network import link_of
from fedsplit.split.local import PooledTraining
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import Purpose, SplitServer
from strategies.aggregation import SampledGrid, make_aggregator
from strategies.answers import Answered, Asked, cost_of, reject
from strategies.clients import Clients
from strategies.replies import (
    arrays_bytes,
    fault_of_metrics,
    fault_of_train_reply,
    in_order_of,
    mean_of_metrics,
    num_examples_of,
    sort_replies,
    weights_of,
    with_dtypes_of,
)

Note = Callable[..., None]


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
    pool : PooledTraining | None
        Training on everyone's images, for the strategy that asks for it.
    """

    rule: ClassVar[type[UpdateRule] | None] = None
    """How the server part learns; None trains the whole model at the clients."""
    synchronous: ClassVar[bool] = False
    """Whether participants wait for each other in every step, so that all must be connected."""
    pooled: ClassVar[bool] = False
    """Whether everyone's images are trained on together, at the server."""
    aggregates: ClassVar[bool] = True
    """Whether the aggregator combines what clients train."""
    keeps_weights: ClassVar[bool] = False
    """Whether each client keeps what it has trained for its next round."""

    def __init__(
        self,
        *,
        config: Config,
        clients: Clients,
        facts: Mapping[str, str | int],
        note: Note,
        server: SplitServer | None,
        pool: PooledTraining | None = None,
    ) -> None:
        self.config = config
        self.clients = clients
        self.server = server
        self.pool = pool
        self.aggregator = make_aggregator(config.aggregation)
        self._facts = {**facts, "keeps-weights": self.keeps_weights}
        self._note = note
        self._asked = Asked({}, ArrayRecord())
        self._tokens: Mapping[int, str] = {}
        self._started = 0.0
        self._scored_bytes = 0  # weights that clients send for no other purpose

    def summary(self) -> None:
        """Log what the strategy is."""
        split = self.config.split
        how = f"cut {split.cut_layer}, {split.topology}" if self.server else "unsplit"
        log(INFO, "\t├── Strategy: %s (%s)", self.config.strategy, how)
        aggregator = type(self.aggregator).__name__ if self.aggregates else "none"
        log(INFO, "\t├── Aggregator: %s", aggregator)
        log(INFO, "\t└── Clients: %d", len(self.clients.node_ids))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample participants, open the round, and give each its weights and its token."""
        self._started = time.perf_counter()
        return self._ask_to_train(server_round, self._sample(server_round), arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Close the round, and aggregate the contributions that are whole.

        Raises
        ------
        RunError
            If no participant's contribution is, or the aggregator makes nothing of them.
        """
        answered = self._accept(server_round, replies)
        self._note_train(server_round, [answered])  # first: some aggregators empty the replies
        arrays, metrics = self._aggregate(server_round, list(answered.good.values()))
        if self.server is not None:
            self.server.close_round(answered.weights)
        self._note(train_loss=metrics["loss"], train_accuracy=metrics["accuracy"])
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample who evaluates on its own validation split."""
        self._started = time.perf_counter()
        sampled = self.clients.sample(
            self.config.fraction_evaluate, self.config.seed, "evaluate", server_round
        )
        node_ids = self._open_round(Purpose.EVALUATE, server_round, sampled, arrays)
        if not node_ids:
            return []
        messages = self.aggregator.configure_evaluate(
            server_round, arrays, config, SampledGrid(grid, node_ids)
        )
        return self._address(messages)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average what the clients measured; one that failed only leaves its own share out."""
        good, failures = sort_replies(replies, self._asked.participants)
        report = self.server.report() if self.server is not None else None
        reject(good, failures, report, fault_of_metrics)
        for client, reason in sorted(failures.items()):
            log(WARNING, "Client %d did not evaluate round %d: %s", client, server_round, reason)
        with_examples = [reply for reply in good.values() if num_examples_of(reply) > 0]
        metrics = self.aggregator.aggregate_evaluate(server_round, with_examples)
        weights = sum(map(arrays_bytes, self._sent_to_each().values()))
        self._note(
            evaluate_seconds=time.perf_counter() - self._started,
            evaluate_uplink_bytes=(report.traffic.uplink_bytes if report else 0)
            + self._scored_bytes,
            evaluate_downlink_bytes=(report.traffic.downlink_bytes if report else 0) + weights,
        )
        if metrics is not None:
            self._note(validation_loss=metrics["loss"], validation_accuracy=metrics["accuracy"])
        return metrics

    def to_score(self, arrays: ArrayRecord) -> Sequence[ArrayRecord]:
        """Return what central evaluation scores: the aggregated weights, or every client's own."""
        return [arrays]

    def _sample(self, server_round: int) -> list[int]:
        config = self.config
        return self.clients.sample(config.fraction_train, config.seed, "train", server_round)

    def _ask_to_train(
        self,
        server_round: int,
        sampled: Sequence[int],
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> list[Message]:
        """Open a round for these clients, and return a message for each."""
        node_ids = self._open_round(Purpose.TRAIN, server_round, sampled, arrays)
        messages = self.aggregator.configure_train(
            server_round, to_compute(arrays), config, SampledGrid(grid, node_ids)
        )
        return self._address(messages)

    def _open_round(
        self, purpose: Purpose, server_round: int, sampled: Sequence[int], arrays: ArrayRecord
    ) -> list[int]:
        participants = {client: self.clients.node_ids[client] for client in sampled}
        self._asked, self._tokens = Asked(participants, arrays), {}
        if self.server is not None:
            self._tokens = self.server.open_round(purpose, sampled, server_round)
        return list(participants.values())

    def _address(self, messages: Iterable[Message]) -> list[Message]:
        """Give every message a config of its own, in the order of partition ids."""
        client_of = {node: client for client, node in self._asked.participants.items()}
        addressed: dict[int, Message] = {}
        for message in messages:
            client = client_of[message.metadata.dst_node_id]
            config = ConfigRecord({**message.content.config_records["config"], **self._facts})
            if client in self._tokens:
                config["channel-token"] = self._tokens[client]
            content = RecordDict({"config": config})
            if self._asked.sent:
                content["arrays"] = self._weights_for(client)
            addressed[client] = Message(
                content=content,
                message_type=message.metadata.message_type,
                dst_node_id=message.metadata.dst_node_id,
            )
        return [addressed[client] for client in sorted(addressed)]

    def _weights_for(self, client: int) -> ArrayRecord:
        """Return the weights that a client is sent."""
        return self._asked.sent

    def _sent_to_each(self) -> dict[int, ArrayRecord]:
        """Return the records in the messages: none where clients have nothing to train."""
        if not self._asked.sent:
            return {}
        return {client: self._weights_for(client) for client in self._asked.participants}

    def _accept(self, server_round: int, replies: Iterable[Message]) -> Answered:
        """End the streams of a training round, and keep the replies that are whole."""
        good, failures = sort_replies(replies, self._asked.participants)
        report = self.server.report() if self.server is not None else None
        reject(good, failures, report, partial(fault_of_train_reply, sent=self._asked.sent))
        for client, reason in sorted(failures.items()):
            log(WARNING, "Client %d is left out of round %d: %s", client, server_round, reason)
        returned = [in_order_of(weights_of(reply), self._asked.sent) for reply in good.values()]
        for reply, arrays in zip(good.values(), returned, strict=True):
            reply.content["arrays"] = arrays
        return Answered(
            good=good,
            failures=failures,
            weights={client: num_examples_of(reply) for client, reply in good.items()},
            report=report,
            sync_uplink={
                client: arrays_bytes(arrays)
                for client, arrays in zip(good, returned, strict=True)
                if arrays
            },
            sync_downlink={
                client: arrays_bytes(arrays) for client, arrays in self._sent_to_each().items()
            },
        )

    def _aggregate(
        self, server_round: int, replies: list[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Combine checked replies, all of whose weights are in one order."""
        if not self._asked.sent:  # clients have nothing to train
            return ArrayRecord(), mean_of_metrics(replies)
        count, name = len(replies), type(self.aggregator).__name__
        for reply in replies:
            reply.content["arrays"] = to_compute(weights_of(reply))
        arrays, metrics = self.aggregator.aggregate_train(server_round, replies)
        # Half a model must not move without the other.
        if arrays is None or metrics is None:
            raise RunError(
                f"The aggregator {name} makes nothing of the {count} contributions of round "
                f"{server_round}. Use more clients, another aggregation.name, or other "
                f"aggregation.options than '{self.config.aggregation.options}'."
            )
        arrays = with_dtypes_of(arrays, self._asked.sent)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in to_state(arrays).values()):
            raise RunError(
                f"The weights that {name} makes in round {server_round} have NaN or infinity in "
                f"them. Change aggregation.options = '{self.config.aggregation.options}', or "
                "lower learning-rate."
            )
        return arrays, metrics

    def _note_train(self, server_round: int, answers: Sequence[Answered]) -> None:
        """Note what a round's answers cost; a round without any good one ends the run."""
        if not any(answer.good for answer in answers):
            failures = {k: why for answer in answers for k, why in answer.failures.items()}
            reason = failures[min(failures)]
            raise RunError(f"Every participant of round {server_round} failed. First: {reason}")
        seconds = time.perf_counter() - self._started
        self._note(train_seconds=seconds, **cost_of(answers, link_of(self.config.network)))
