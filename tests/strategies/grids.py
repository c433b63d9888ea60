"""A grid whose nodes answer as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedsplit import Config
from fedsplit.inprocess import InProcessGrid
from fedsplit.messages import Instructions
from fedsplit.references import reference_to
from strategies.base import FederatedStrategy

Answer = Callable[[Message], Message]


def instructions_of(strategy: type[FederatedStrategy], **fields: object) -> Instructions:
    """Return what a run of a strategy tells its clients."""
    base = Instructions(
        run="a run",
        num_clients=4,
        num_labels=2,
        client_rule=reference_to(strategy.client_rule),
    )
    return base.model_copy(update=fields)


class ScriptedGrid(InProcessGrid):
    """Node k answers by `answers[k]`; messages are kept in `sent`."""

    def __init__(self, answers: dict[int, Answer]) -> None:
        super().__init__(Config.from_flat({"num-clients": 1, "max-concurrent-clients": 1}))
        self.answers = answers
        self.sent: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.answers)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = []
        for message in messages:
            self.sent.append(message)
            replies.append(self.answers[message.metadata.dst_node_id](message))
        return replies


def describes(partition_id: int, *counts: int) -> Answer:
    """Answer as a client with so many images of each class; there are at least two classes."""
    counts = (*counts, *[0] * (2 - len(counts)))

    def answer(message: Message) -> Message:
        config = ConfigRecord({"partition-id": partition_id, "class-counts": list(counts)})
        return Message(RecordDict({"config": config}), reply_to=message)

    return answer


def fails(reason: str) -> Answer:
    def answer(message: Message) -> Message:
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    return answer
