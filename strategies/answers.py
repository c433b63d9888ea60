"""What came of a round's messages: whose reply counts, and what it all cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message

from fedsplit.split.server import RoundReport


@dataclass(frozen=True)
class Asked:
    """Messages in flight: who was asked, and the weights at this point."""

    participants: Mapping[int, int]
    sent: ArrayRecord


@dataclass(frozen=True)
class Answered:
    """What came of the messages: whose reply counts, whose does not and why, and bytes.

    Attributes
    ----------
    good : Mapping[int, Message]
        Sorted by partition id.
    failures : Mapping[int, str]
        Partition id -> why its contribution is left out.
    weights : Mapping[int, int]
        Partition id -> examples it has trained or scored, of the good replies.
    report : RoundReport | None
        What the split server saw, if there is one.
    sync_uplink_bytes, sync_downlink_bytes : int
        Weights in the good replies and in the messages.
    """

    good: Mapping[int, Message]
    failures: Mapping[int, str]
    weights: Mapping[int, int]
    report: RoundReport | None
    sync_uplink_bytes: int
    sync_downlink_bytes: int


def reject(
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


def cost_of(answers: Sequence[Answered]) -> dict[str, object]:
    """Return the row's entries for a round of training, over all its messages."""
    failed = sorted(client for answer in answers for client in answer.failures)
    cost: dict[str, object] = {
        "num_participants": sum(len(answer.good) for answer in answers) + len(failed),
        "failed_clients": failed,
        "num_examples": sum(sum(answer.weights.values()) for answer in answers),
        "sync_uplink_bytes": sum(answer.sync_uplink_bytes for answer in answers),
        "sync_downlink_bytes": sum(answer.sync_downlink_bytes for answer in answers),
    }
    traffic = [answer.report.traffic for answer in answers if answer.report is not None]
    if traffic:
        cost["cut_uplink_bytes"] = sum(each.uplink_bytes for each in traffic)
        cost["cut_downlink_bytes"] = sum(each.downlink_bytes for each in traffic)
    return cost
