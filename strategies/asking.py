"""A grid that asks again where a process has died, and does not wait for those that are gone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from logging import WARNING
from typing import NamedTuple

from flwr.app import Message, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from fedsplit.errors import RunError
from fedsplit.flower_internals import error_reply, process_has_died
from fedsplit.messages import CONFIG, Instructions
from fedsplit.split.server import SplitServer
from strategies.grids import ForwardingGrid
from strategies.replies import reason_of

GRACE_SECONDS = 5.0
"""How long to wait for the reply of a client after the split server has left it out.

One that still runs replies at once with its error. Where a process has died, a SuperNode says so
only after a minute.
"""
_SHORTEST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 1.0


class _Sent(NamedTuple):
    """A message that waits for its reply, what it tells its client, and whether it is the second.

    What it tells is None if it is not one of ours.
    """

    message: Message
    told: Instructions | None
    again: bool = False


class AskingGrid(ForwardingGrid):
    """Sends through the grid behind it.

    - A client whose process has died is asked once more, if nothing of what it has done counts.
    - Any other that has failed is left out by the split server at once; others need not wait.
    - A client that the split server has left out is waited for a short time only.

    Parameters
    ----------
    grid : Grid
        Flower's.
    server : SplitServer | None
        Has a session for each participant, if the model is split.
    """

    def __init__(self, grid: Grid, server: SplitServer | None) -> None:
        super().__init__(grid)
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
        waiting = self._push([_Sent(message, _told(message)) for message in messages])
        replies: list[Message] = []
        while waiting and (timeout is None or time.monotonic() - began < timeout):
            for pulled in self._grid.pull_messages(list(waiting)):
                sent = waiting.pop(pulled.metadata.reply_to_message_id, None)
                if sent is None:
                    continue
                reply = _as_if_from(sent.message, pulled)
                if again := self._again(sent, reply):
                    waiting |= self._push([again])
                else:
                    replies.append(reply)
            for number, sent in [item for item in waiting.items() if self._is_gone(item[1])]:
                del waiting[number]
                if again := self._begin_again(sent, "its stream broke, and it has not replied"):
                    waiting |= self._push([again])
            if waiting:  # Flower's grids can only be asked whether a reply is there
                elapsed = time.monotonic() - began
                time.sleep(min(max(_SHORTEST_WAIT_SECONDS, elapsed / 20), _LONGEST_WAIT_SECONDS))
        return replies

    def _push(self, sent: list[_Sent]) -> dict[str, _Sent]:
        numbers = self._grid.push_messages([each.message for each in sent])
        return dict(zip(numbers, sent, strict=True))

    def _again(self, sent: _Sent, reply: Message) -> _Sent | None:
        """Return the message with which to ask a client again, or None if its reply counts."""
        if not reply.has_error():
            return None
        reason = reason_of(reply.error)
        if process_has_died(reply.error) and (again := self._begin_again(sent, reason)):
            return again
        if sent.told is not None and self._server is not None:
            self._server.leave_out(sent.told.channel_token, reason)
        return None

    def _begin_again(self, sent: _Sent, reason: str) -> _Sent | None:
        """Return the message that lets a client begin its work again, or None if it cannot."""
        told, message = sent.told, sent.message
        if told is None or sent.again:
            return None
        token = told.channel_token
        if token:
            renewed = self._server.renew(token) if self._server is not None else None
            if renewed is None:
                return None
            token = renewed
        log(WARNING, "The process of a client has died (%s). The client is asked again.", reason)
        told = told.model_copy(update={"channel_token": token})
        content = RecordDict(dict(message.content.items()))
        content[CONFIG] = told.to_record()
        again = Message(
            content=content,
            message_type=message.metadata.message_type,
            dst_node_id=message.metadata.dst_node_id,
        )
        return _Sent(again, told, again=True)

    def _is_gone(self, sent: _Sent) -> bool:
        if sent.told is None or self._server is None:
            return False
        failed_at = self._server.failed_at(sent.told.channel_token)
        return failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS


def _as_if_from(message: Message, reply: Message) -> Message:
    """Return a reply as one of the node asked: for a node that is gone, the SuperLink replies."""
    if reply.metadata.src_node_id == message.metadata.dst_node_id:
        return reply
    reason = reason_of(reply.error) if reply.has_error() else "another node replied for it"
    return error_reply(message, reason)


def _told(message: Message) -> Instructions | None:
    """Return what a message tells a client, if it is one of ours."""
    record = message.content.config_records.get(CONFIG)
    try:
        return None if record is None else Instructions.from_record(record)
    except RunError:
        return None
