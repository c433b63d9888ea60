"""Clients whose process has died are asked again; those that are gone are not waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid

from fedsplit.messages import CONFIG
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.in_turn import InTurn
from fedsplit.split.phases import Purpose
from fedsplit.split.server import SplitServer
from strategies import asking
from strategies.asking import AskingGrid
from strategies.full import Full
from tests.split.toys import (
    CUT,
    batches_of,
    bottom_of,
    make_server,
    server_part_of,
    settings_of,
    smashed_frame,
)
from tests.strategies.grids import ScriptedGrid, fails, instructions_of

Answer = Callable[[Message], Message | None]


class QueuedGrid(ScriptedGrid):
    """Node k answers by the next of `scripts[k]`; None: it never does."""

    def __init__(self, scripts: dict[int, list[Answer]]) -> None:
        super().__init__({})
        self.scripts = scripts

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        numbers = []
        for message in messages:
            self.sent.append(message)
            number = f"{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = number
            reply = self.scripts[message.metadata.dst_node_id].pop(0)(message)
            if reply is not None:
                self._replies[number] = reply
            numbers.append(number)
        return numbers


def dies(message: Message) -> Message:
    return Message(Error(ErrorCode.UNKNOWN, "ActorDiedError"), reply_to=message)


def answers(message: Message) -> Message:
    return Message(RecordDict(), reply_to=message)


def never(message: Message) -> None:
    return None


def message_to(node: int, token: str = "") -> Message:
    told = instructions_of(Full, channel_token=token)
    return Message(RecordDict({CONFIG: told.to_record()}), node, "train")


def asked(
    grid: Grid, server: SplitServer | None, *messages: Message, timeout: float = 5.0
) -> dict[int, Message]:
    replies = AskingGrid(grid, server).send_and_receive(messages, timeout=timeout)
    found = {reply.metadata.src_node_id: reply for reply in replies}
    assert len(found) == len(list(replies))
    return found


def test_a_client_whose_process_has_died_is_asked_once_more() -> None:
    """Break it: ask as often as it dies, or also one whose app has failed."""
    grid = QueuedGrid({1: [dies, answers], 2: [dies, dies, answers], 3: [fails("no"), answers]})
    found = asked(grid, None, *map(message_to, (1, 2, 3)))
    assert {node: reply.has_error() for node, reply in found.items()} == {
        1: False,
        2: True,
        3: True,
    }
    assert [message.metadata.dst_node_id for message in grid.sent] == [1, 2, 3, 1, 2]


def test_what_the_superlink_replies_for_a_node_that_is_gone_is_its_reason() -> None:
    """It replies as itself. Break it: let sort_replies drop what comes from no participant."""

    def is_gone(message: Message) -> Message:
        reply = fails("the node has not reported")(message)
        reply.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
        return reply

    def is_taken(message: Message) -> Message:
        reply = answers(message)
        reply.metadata.__dict__["_src_node_id"] = 1
        return reply

    grid = QueuedGrid({1: [answers], 2: [is_gone], 3: [is_taken]})
    found = asked(grid, None, *map(message_to, (1, 2, 3)))
    assert not found[1].has_error()
    assert found[2].error.reason == "the node has not reported"
    assert found[3].error.reason == "another node replied for it"


def test_others_do_not_wait_for_a_client_whose_node_is_gone() -> None:
    """Break it: wait for it until `channel.join-timeout`, in every later round."""
    server = SplitServer(rule=Concatenated(server_part_of(), settings_of()), wire=CUT)
    tokens = server.open_round(Purpose.TRAIN, [0, 1])
    asked(QueuedGrid({1: [fails("gone")]}), server, message_to(1, tokens[0]))
    session = server.open(tokens[1])
    ((images, labels),) = batches_of(1, 4)
    smashed = {"hidden": bottom_of()(images).detach()}
    began = time.monotonic()
    session.handle(smashed_frame(0, smashed, labels))
    assert time.monotonic() - began < 5
    server.close()


@pytest.mark.parametrize("strategy", ["sflv1", "sflv2"])
def test_only_work_that_can_be_taken_back_is_begun_again(strategy: str) -> None:
    """Break it: renew the token whatever the update rule is."""
    server = make_server() if strategy == "sflv1" else shared_server()
    tokens = server.open_round(Purpose.TRAIN, [0, 1])
    server.open(tokens[0])  # client 0 has begun, and client 1 has not
    grid = QueuedGrid({1: [dies, answers], 2: [dies, answers]})
    found = asked(grid, server, message_to(1, tokens[0]), message_to(2, tokens[1]))
    again = {m.metadata.dst_node_id: _token(m) for m in grid.sent[2:]}
    assert again.pop(2) == tokens[1]
    assert not found[2].has_error()
    if strategy == "sflv1":
        assert again[1] not in tokens.values()
        server.open(str(again[1]))
        assert set(server.sessions) == {0, 1}
    else:
        assert again == {}
        assert found[1].has_error()
        failed_at = server.failed_at(tokens[0])
        assert failed_at is not None, "nobody waits until its stream could have gone on"
    server.close()


def shared_server() -> SplitServer:
    return SplitServer(rule=InTurn(server_part_of(), settings_of()), wire=CUT)


def _token(message: Message) -> object:
    return message.content.config_records[CONFIG]["channel-token"]


@pytest.mark.parametrize("strategy", ["sflv1", "sflv2"])
def test_a_client_that_was_left_out_is_waited_for_a_short_time_only(
    monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """One that can begin again is asked again. Break it: wait until `round-timeout`."""
    monkeypatch.setattr(asking, "GRACE_SECONDS", 0.3)
    server = make_server() if strategy == "sflv1" else shared_server()
    tokens = server.open_round(Purpose.TRAIN, [0, 1, 2])
    server.open(tokens[0]).close("its stream broke")
    server.open(tokens[2]).close("its stream broke")
    began = time.monotonic()
    grid = QueuedGrid({1: [never, answers], 2: [answers], 3: [never, dies]})
    messages = [message_to(client + 1, tokens[client]) for client in (0, 1, 2)]
    found = asked(grid, server, *messages, timeout=60.0)
    assert 0.2 < time.monotonic() - began < 5
    if strategy == "sflv1":
        assert {node: reply.has_error() for node, reply in found.items()} == {
            1: False,
            2: False,
            3: True,
        }
        assert [message.metadata.dst_node_id for message in grid.sent] == [1, 2, 3, 1, 3]
        assert _token(grid.sent[3]) not in tokens.values()
    else:
        assert list(found) == [2]
        assert len(grid.sent) == 3
    server.close()


def test_a_client_that_is_at_work_is_waited_for_until_the_timeout() -> None:
    began = time.monotonic()
    assert asked(QueuedGrid({1: [never]}), None, message_to(1), timeout=0.5) == {}
    assert 0.4 < time.monotonic() - began < 5
