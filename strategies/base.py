"""What all strategies share: a Flower strategy around any aggregator and, if split, a split server.

A strategy samples by partition id, instructs each participant, decides which contributions count,
and lets the aggregator combine them in the order of partition ids.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from logging import INFO
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsplit.fields import Field, checked_values
from fedsplit.flower_internals import record_bytes
from fedsplit.links import link_of
from fedsplit.messages import ACCURACY, LOSS
from fedsplit.run_log import warn
from fedsplit.snapshot import Snapshot
from fedsplit.split.client_rules import ClientRule, SplitClient
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import RoundReport
from strategies.addressing import address_messages
from strategies.aggregation import SampledGrid, make_aggregator
from strategies.aggregator_state import aggregator_state, load_aggregator_state
from strategies.answers import (
    Answered,
    Asked,
    accepted,
    check_enough,
    cost_of,
    metrics_of,
    results_of,
)
from strategies.combination import combine_scores
from strategies.context import RunContext
from strategies.halves import Halves
from strategies.kept import KeptByClients
from strategies.replies import fault_of_metrics, fault_of_train_reply, measurements_of
from strategies.reply_checks import FaultOf, ReplyChecks
from strategies.update_norms import UpdateNorms


class FederatedStrategy(Strategy):
    """A strategy over known clients: an algorithm names both its halves here.

    Parameters
    ----------
    run : RunContext
        What it works with.
    """

    client_rule: ClassVar[type[ClientRule]] = SplitClient
    """What a client does with its batches."""
    update_rule: ClassVar[type[UpdateRule] | None] = None
    """How the server part learns; None if the model is not split."""
    synchronous: ClassVar[bool] = False
    """Whether participants wait for each other in every step, so that all must be connected."""
    pooled: ClassVar[bool] = False
    """Whether the server trains on the pooled images of all clients."""
    aggregates: ClassVar[bool] = True
    """Whether the aggregator combines what clients train."""

    def __init__(self, run: RunContext) -> None:
        self.config = run.config
        self.clients = run.clients
        self.server = run.server
        self.pool = run.pool
        self.aggregator = make_aggregator(run.config.aggregation)
        self._run = run
        self._note = run.note
        self._asked = Asked({}, ArrayRecord())
        self._tokens: Mapping[int, str] = {}
        self._server_round = 0
        self._started = 0.0
        self._scored_bytes = 0  # weights that clients send only to be scored
        self._kept = KeptByClients()
        rule = None if run.server is None else run.server.rule
        self._halves = Halves(self.aggregator, run.buffers, rule)
        self._norms = UpdateNorms(run.config.aggregation.update_factor)

    @classmethod
    def metrics(cls) -> tuple[Field, ...]:
        """Return the fields that both halves add to a round's row."""
        server = () if cls.update_rule is None else cls.update_rule.metrics
        return (*cls.client_rule.metrics, *server)

    def summary(self) -> None:
        """Log the strategy, its aggregator and the number of clients."""
        split = self.config.split
        cut = f"cut {split.cut_layer}, {split.topology}" if self.server else "unsplit"
        aggregator = type(self.aggregator).__name__ if self.aggregates else "none"
        for warning in self._halves.warnings(len(self._sample(1))):  # as many as in every round
            warn(warning)
        log(INFO, "\t├── Strategy: %s (%s)", self.config.strategy, cut)
        log(INFO, "\t├── Aggregator: %s", aggregator)
        log(INFO, "\t└── Clients: %d", len(self.clients.node_ids))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample participants, open the round, and give each its weights and its token."""
        self._begin_round()
        return self._ask_to_train(server_round, self._sample(server_round), arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Close the round, and aggregate the complete contributions.

        Raises
        ------
        RunError
            If there is none, or the aggregator returns no weights.
        """
        answered = self._accept(server_round, replies)
        self._note_train(server_round, [answered])  # first: some aggregators empty the replies
        arrays, metrics = self._halves.combine(server_round, answered, self._asked.sent)
        self._close_round(answered)
        self._note(train_loss=metrics[LOSS], train_accuracy=metrics[ACCURACY])
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients, each of which evaluates on its own validation split."""
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
        return self._address(server_round, messages)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average the clients' measurements; a failed client leaves out only its own share."""
        good, _, report = self._checked(server_round, replies, Purpose.EVALUATE, fault_of_metrics)
        measured = {client: measurements_of(reply) for client, reply in good.items()}
        self._run.note_clients("validation", results_of([measured]))
        with_examples = [r for r in good.values() if measurements_of(r).num_examples > 0]
        metrics = combine_scores(self.aggregator, server_round, with_examples)
        weights = sum(map(record_bytes, self._sent_to_each().values()))
        seen = report.traffic if report else None
        self._note(
            evaluate_seconds=time.perf_counter() - self._started,
            evaluate_uplink_bytes=self._scored_bytes + (seen.uplink_bytes if seen else 0),
            evaluate_downlink_bytes=weights + (seen.downlink_bytes if seen else 0),
            **self._kept.cost,
        )
        if metrics is not None:
            self._note(validation_loss=metrics[LOSS], validation_accuracy=metrics[ACCURACY])
        return metrics

    def to_score(self, arrays: ArrayRecord) -> Sequence[ArrayRecord]:
        """Return what central evaluation scores: the aggregated weights, or every client's own."""
        return [arrays]

    def state_dict(self) -> Snapshot:
        """Return what outlives a round, except for the weights, which Flower's loop passes on.

        Call it between rounds.
        """
        kept = self._kept.state_dict()
        updates, aggregator = self._norms.state_dict(), aggregator_state(self.aggregator)
        state: Snapshot = {"aggregator": aggregator, "kept": kept, "updates": updates}
        if self.server is not None:
            state["server"] = self.server.state_dict()
        if self.pool is not None:
            state["pool"] = self.pool.state_dict()
        return state

    def load_state_dict(self, state: Snapshot) -> None:
        """Continue from what `state_dict` returned."""
        load_aggregator_state(self.aggregator, state["aggregator"])
        if self.server is not None:
            self.server.load_state_dict(state["server"])
        if self.pool is not None:
            self.pool.load_state_dict(state["pool"])
        self._norms.load_state_dict(state["updates"])
        self._kept.load_state_dict(state["kept"], self.clients.node_ids)

    def _begin_round(self) -> None:
        self._started = time.perf_counter()
        self._kept.begin_round()

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
            server_round, self._halves.parameters(arrays), config, SampledGrid(grid, node_ids)
        )
        return self._address(server_round, messages)

    def _open_round(
        self, purpose: Purpose, server_round: int, sampled: Sequence[int], arrays: ArrayRecord
    ) -> list[int]:
        participants = {client: self.clients.node_ids[client] for client in sampled}
        self._asked, self._tokens = Asked(participants, arrays), {}
        self._server_round = server_round
        if self.server is not None:
            self._tokens = self.server.open_round(
                purpose,
                sampled,
                server_round,
                progress=self._run.progress,
                work=self.clients.work(purpose, sampled, self.config, self.client_rule),
            )
        return list(participants.values())

    def _address(self, server_round: int, messages: Iterable[Message]) -> list[Message]:
        return address_messages(
            messages,
            self._asked,
            instructions=self._run.instructions.model_copy(update={"server_round": server_round}),
            tokens=self._tokens,
            weights_for=self._weights_for,
            kept=self._kept,
        )

    def _checked(
        self, server_round: int, replies: Iterable[Message], purpose: Purpose, fault_of: FaultOf
    ) -> tuple[dict[int, Message], dict[int, str], RoundReport | None]:
        """End the round's streams, and return its good replies and why the others do not count."""
        report = self.server.report() if self.server is not None else None
        checks = ReplyChecks(self._run, self.client_rule, self._kept, self._norms)
        good, failures = checks.check(
            replies, self._asked, report, fault_of, self._began_with, (purpose, server_round)
        )
        return good, failures, report

    def _began_with(self, client: int) -> ArrayRecord:
        """Return the weights from which a client has trained."""
        return self._asked.sent

    def _weights_for(self, client: int) -> ArrayRecord:
        """Return the weights that a client is sent."""
        return self._asked.sent

    def _sent_to_each(self) -> dict[int, ArrayRecord]:
        """Return the weights in the messages: none where clients have nothing to train."""
        return {k: self._weights_for(k) for k in self._asked.participants if self._asked.sent}

    def _accept(self, server_round: int, replies: Iterable[Message]) -> Answered:
        """End the streams of a training round, and keep the replies that are complete."""
        keys = [field.key for field in self.client_rule.metrics]
        fault_of = partial(fault_of_train_reply, sent=self._asked.sent, metrics=keys)
        good, failures, report = self._checked(server_round, replies, Purpose.TRAIN, fault_of)
        return accepted(
            good,
            failures,
            report,
            metrics=keys,
            sent=self._asked.sent,
            sync_downlink={k: record_bytes(w) for k, w in self._sent_to_each().items()},
        )

    def _close_round(self, answered: Answered) -> None:
        """Update the server part from the accepted participants."""
        if self.server is None:
            return
        if not self.aggregates:
            self._halves.combine_copies(self._server_round, answered)
        self.server.close_round(answered.weights)
        rule = self.server.rule
        self._note(**checked_values(rule.measured(), rule.metrics, rule=type(rule)))

    def _note_train(self, server_round: int, answers: Sequence[Answered]) -> None:
        """Note what a round's answers cost; too few good answers end the run."""
        check_enough(server_round, answers, self.config.min_participants)
        self._run.note_clients("train", results_of(answer.measured for answer in answers))
        self._note(
            train_seconds=time.perf_counter() - self._started,
            **cost_of(answers, link_of(self.config.network)),
            **self._kept.cost,
            **metrics_of(answers, self.client_rule.metrics),
        )
