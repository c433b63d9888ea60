"""The outcome of a round's messages: which replies count, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message

from fedsplit.errors import RunError
from fedsplit.fields import Field, combine
from fedsplit.flower_internals import record_bytes
from fedsplit.links import Link
from fedsplit.messages import ARRAYS, Measurements
from fedsplit.split.server import RoundReport
from strategies.replies import in_order_of, measurements_of, weights_of


@dataclass(frozen=True)
class Asked:
    """Messages that were sent: to whom, and with which weights."""

    participants: Mapping[int, int]
    sent: ArrayRecord


@dataclass(frozen=True)
class Answered:
    """The outcome of the messages: accepted replies, failures with their reasons, and bytes.

    Attributes
    ----------
    good : Mapping[int, Message]
        Sorted by partition id.
    failures : Mapping[int, str]
        Partition id -> why its contribution is left out.
    measured : Mapping[int, Measurements]
        Partition id -> what it has measured, for good replies.
    report : RoundReport | None
        What the split server saw, if there is one.
    sync_uplink, sync_downlink : Mapping[int, int]
        Partition id -> bytes of weights in its good reply, and in the message to it.
    """

    good: Mapping[int, Message]
    failures: Mapping[int, str]
    measured: Mapping[int, Measurements]
    report: RoundReport | None
    sync_uplink: Mapping[int, int]
    sync_downlink: Mapping[int, int]

    @property
    def weights(self) -> dict[int, int]:
        """Partition id -> n_k, the examples it trained on."""
        return {client: found.num_examples for client, found in self.measured.items()}

    @property
    def participants(self) -> list[int]:
        """All clients that were sent a message."""
        return sorted([*self.good, *self.failures])

    def simulated_seconds(self, link: Link) -> float:
        """Return how long the slowest participant's frames and weights would take on such a link.

        Each has a separate link, and all send at the same time. The message that asks a
        participant counts as one message, whatever weights it carries, and so does its reply.
        """
        streams = self.report.streams if self.report else {}
        return max(
            link.seconds(
                uplink_bytes=self.sync_uplink.get(k, 0)
                + (streams[k].traffic.uplink_bytes if k in streams else 0),
                downlink_bytes=self.sync_downlink.get(k, 0)
                + (streams[k].traffic.downlink_bytes if k in streams else 0),
                uplink_messages=(k in self.good)
                + (streams[k].uplink_messages if k in streams else 0),
                downlink_messages=1 + (streams[k].downlink_messages if k in streams else 0),
            )
            for k in self.participants
        )

    def measured_seconds(self) -> float | None:
        """Return the longest time that a participant's frames were in transit.

        This is the client's time from sending frames to receiving their answers, minus the server's
        time from a frame's arrival to its answer. None without accepted streams.
        """
        if self.report is None or not self.good:
            return None
        # Two clocks: without a wire their difference may be slightly below 0.
        return max(
            max(0.0, found.channel_seconds - self.report.streams[client].answer_seconds)
            for client, found in self.measured.items()
        )


def accepted(
    good: Mapping[int, Message],
    failures: Mapping[int, str],
    report: RoundReport | None,
    *,
    metrics: Sequence[str],
    sent: ArrayRecord,
    sync_downlink: Mapping[int, int],
) -> Answered:
    """Return the outcome of a round of training whose replies have been checked.

    Parameters
    ----------
    good : Mapping[int, Message]
        Accepted replies; their weights get the order of `sent`.
    failures : Mapping[int, str]
        Partition id -> why its contribution is left out.
    report : RoundReport | None
        What the split server saw, if there is one.
    metrics : Sequence[str]
        Keys of the client rule's own metrics.
    sent : ArrayRecord
        The weights that clients were given.
    sync_downlink : Mapping[int, int]
        Partition id -> bytes of weights in the message to it.
    """
    sync_uplink = {}
    for client, reply in good.items():
        arrays = reply.content[ARRAYS] = in_order_of(weights_of(reply), sent)
        if arrays:
            sync_uplink[client] = record_bytes(arrays)
    return Answered(
        good=good,
        failures=failures,
        measured={client: measurements_of(reply, metrics) for client, reply in good.items()},
        report=report,
        sync_uplink=sync_uplink,
        sync_downlink=sync_downlink,
    )


def check_enough(server_round: int, answers: Sequence[Answered], fewest: int) -> None:
    """Refuse a round with too few contributions.

    Raises
    ------
    RunError
        Says how many there are, and why the first one is missing.
    """
    found = sum(len(answer.good) for answer in answers)
    failures = {client: why for answer in answers for client, why in answer.failures.items()}
    if found >= fewest or not failures:
        return
    first = f"First: {failures[min(failures)]}"
    if found == 0:
        raise RunError(f"Every participant of round {server_round} failed. {first}")
    clients = ", ".join(map(str, sorted(failures)))
    raise RunError(
        f"Round {server_round} has {found} complete contributions, fewer than min-participants = "
        f"{fewest}. Missing: clients {clients}. {first}"
    )


def metrics_of(answers: Sequence[Answered], metrics: Sequence[Field]) -> dict[str, float | None]:
    """Return a round's values of the client rule's own metrics, over all its messages."""
    measured = {k: found for answer in answers for k, found in answer.measured.items()}
    weights = {client: found.num_examples for client, found in measured.items()}
    return {
        field.key: combine(field, {k: m.metrics[field.key] for k, m in measured.items()}, weights)
        for field in metrics
    }


def results_of(
    measured: Iterable[Mapping[int, Measurements]],
) -> dict[int, dict[str, float]]:
    """Return the results of single clients: of those that have trained on or scored examples."""
    every = {client: found for each in measured for client, found in each.items()}
    return {
        client: {"examples": found.num_examples, "loss": found.loss, "accuracy": found.accuracy}
        for client, found in sorted(every.items())
        if found.num_examples > 0
    }


def cost_of(answers: Sequence[Answered], link: Link | None) -> dict[str, object]:
    """Return the row's entries for a round of training, over all its messages.

    Parameters
    ----------
    answers : Sequence[Answered]
        One for each group of participants that were asked together.
    link : Link | None
        The simulated link of every participant, if any.
    """
    failed = sorted(client for answer in answers for client in answer.failures)
    cost: dict[str, object] = {
        "num_participants": sum(len(answer.good) for answer in answers) + len(failed),
        "failed_clients": failed,
        "num_examples": sum(sum(answer.weights.values()) for answer in answers),
        "sync_uplink_bytes": sum(sum(answer.sync_uplink.values()) for answer in answers),
        "sync_downlink_bytes": sum(sum(answer.sync_downlink.values()) for answer in answers),
    }
    if link is not None:
        simulated = [answer.simulated_seconds(link) for answer in answers]
        cost["simulated_communication_seconds"] = sum(simulated)
    measured = [answer.measured_seconds() for answer in answers]
    if known := [seconds for seconds in measured if seconds is not None]:
        cost["communication_seconds"] = sum(known)
    traffic = [answer.report.traffic for answer in answers if answer.report is not None]
    if traffic:
        cost["cut_uplink_bytes"] = sum(each.uplink_bytes for each in traffic)
        cost["cut_downlink_bytes"] = sum(each.downlink_bytes for each in traffic)
    return cost
