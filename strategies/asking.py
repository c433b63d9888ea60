"""A grid that asks again where a process has died, and does not wait for those that are gone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from logging import WARNING

from flwr.app import Message, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from fedsplit.errors import RunError
from fedsplit.flower_internals import NodeInfo, Run, process_has_died
from fedsplit.messages import CONFIG, Instructions
from fedsplit.split.server import SplitServer
from strategies.replies import reason_of

GRACE_SECONDS = 15.0
"""How long to wait for the reply of a client after the split server has left it out."""
_SHORTEST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 1.0


class AskingGrid(Grid):
    """Sends through the grid behind it.

    - A client whose process has died is asked once more, if nothing of what it has done counts.
    - A client that the split server has left out is waited for a short time only.

    Parameters
    ----------
    grid : Grid
        Flower's.
    server : SplitServer | None
        Has a session for each participant, if the model is split.
    """

    def __init__(self, grid: Grid, server: SplitServer | None) -> None:
        self._grid = grid
        self._server = server

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies: at most one from each node.

        Parameters
        ----------
        messages : Iterable[Message]
            One for each node.
        timeout : float | None
            Seconds to wait for all replies; None = for ever.
        """
        began = time.monotonic()
        waiting = self._push(list(messages))
        asked_again: set[int] = set()
        replies: list[Message] = []
        while waiting and (timeout is None or time.monotonic() - began < timeout):
            for reply in self._grid.pull_messages(list(waiting)):
                message = waiting.pop(reply.metadata.reply_to_message_id, None)
                if message is None:
                    continue
                node = message.metadata.dst_node_id
                again = None if node in asked_again else self._again(message, reply)
                if again is None:
                    replies.append(reply)
                else:
                    asked_again.add(node)
                    waiting |= self._push([again])
            for number, message in list(waiting.items()):
                if self._is_gone(message):
                    del waiting[number]
            if waiting:  # Flower's grids can only be asked whether a reply is there
                elapsed = time.monotonic() - began
                time.sleep(min(max(_SHORTEST_WAIT_SECONDS, elapsed / 20), _LONGEST_WAIT_SECONDS))
        return replies

    def _push(self, messages: list[Message]) -> dict[str, Message]:
        return dict(zip(self._grid.push_messages(messages), messages, strict=True))

    def _again(self, message: Message, reply: Message) -> Message | None:
        """Return the message with which to ask a client again, or None if its reply counts."""
        if not reply.has_error() or not process_has_died(reply.error):
            return None
        told = _told(message)
        if told is None:
            return None
        token = told.channel_token
        if token:
            renewed = self._server.renew(token) if self._server is not None else None
            if renewed is None:
                return None
            token = renewed
        log(
            WARNING,
            "The process of a client has died (%s). The client is asked again.",
            reason_of(reply.error),
        )
        content = RecordDict(dict(message.content.items()))
        content[CONFIG] = told.model_copy(update={"channel_token": token}).to_record()
        return Message(
            content=content,
            message_type=message.metadata.message_type,
            dst_node_id=message.metadata.dst_node_id,
        )

    def _is_gone(self, message: Message) -> bool:
        told = _told(message)
        if told is None or self._server is None:
            return False
        failed_at = self._server.failed_at(told.channel_token)
        return failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS

    def get_node_ids(self) -> Iterable[int]:
        """Return those of the grid behind this one."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return those of the grid behind this one."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send without waiting."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return self._grid.pull_messages(message_ids)

    def set_run(self, run: Run) -> None:
        """Not supported: the run belongs to the grid behind this one."""
        raise NotImplementedError

    @property
    def run(self) -> Run:
        """Run information of the grid behind this one."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message through the grid behind this one."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)


def _told(message: Message) -> Instructions | None:
    """Return what a message tells a client, if it is one of ours."""
    record = message.content.config_records.get(CONFIG)
    try:
        return None if record is None else Instructions.from_record(record)
    except RunError:
        return None
