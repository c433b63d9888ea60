from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from fedsplit.messages import KEPT_BYTES, KEPT_RECORDS, KEPT_ROUND
from strategies.kept import KeptByClients

OPTIMIZER = KEPT_RECORDS[0]


def reply(server_round: object, state: object = b"moments") -> Message:
    content = RecordDict({OPTIMIZER: ConfigRecord({KEPT_BYTES: state})})  # type: ignore[dict-item]
    content[KEPT_ROUND] = ConfigRecord({KEPT_ROUND: server_round})  # type: ignore[dict-item]
    return Message(content, dst_node_id=1, message_type="train")


def given(kept: KeptByClients, client: int) -> dict[str, Any]:
    return {name: next(iter(record.values())) for name, record in kept.give_back(client).items()}


def test_a_client_that_did_not_contribute_is_sent_its_last_copy_that_counted() -> None:
    """Break it: keep the copies of replies that are rejected, or give back nothing."""
    kept = KeptByClients()
    first = {0: reply(1, b"a"), 1: reply(1, b"b")}
    kept.take(first)
    assert [dict(message.content) for message in first.values()] == [{}, {}]
    kept.accept([0, 1], [])
    assert given(kept, 1) == {}
    kept.take({0: reply(2, b"c"), 1: reply(2, b"d")})
    kept.accept([0], [1])
    assert [kept.expected_round(client) for client in (0, 1, 2)] == [2, 1, 0]
    assert given(kept, 0) == {}
    assert given(kept, 1) == {OPTIMIZER: b"b", KEPT_ROUND: 1}
    kept.take({1: reply(3, b"e")})
    kept.accept([1], [])
    assert given(kept, 1) == {}


def test_after_an_interruption_every_client_is_sent_its_copy_and_its_round() -> None:
    kept, later = KeptByClients(), KeptByClients()
    kept.take({0: reply(4, b"a")})
    kept.accept([0], [])
    later.load_state_dict(kept.state_dict(), [0, 1])
    assert later.expected_round(0) == 4
    assert given(later, 0) == {OPTIMIZER: b"a", KEPT_ROUND: 4}
    assert given(later, 1) == {}


def test_copies_that_are_no_bytes_and_rounds_that_are_no_numbers_are_dropped() -> None:
    kept = KeptByClients()
    for made in ("7", -1, 1.5, b"7"):
        kept.take({0: reply(made, "moments")})
        kept.accept([0], [])
    assert kept.expected_round(0) == 0
    assert kept.state_dict() == {"copies": {}, "rounds": {}}


def test_the_round_of_a_copy_costs_nothing_and_the_copy_its_bytes() -> None:
    """As for other measurements in a reply; without checkpoints only the round is sent."""
    kept = KeptByClients()
    alone = reply(1)
    del alone.content[OPTIMIZER]
    kept.take({0: alone})
    assert kept.cost["kept_uplink_bytes"] == 0
    kept.take({0: reply(1)})
    assert int(str(kept.cost["kept_uplink_bytes"])) > 0


def test_a_copy_of_an_earlier_round_is_not_given_back_as_that_of_a_later() -> None:
    """Break it: keep the last copy when a run that continues takes no more of them."""
    kept = KeptByClients()
    kept.take({0: reply(1)})
    kept.accept([0], [])
    alone = reply(2)
    del alone.content[OPTIMIZER]
    kept.take({0: alone})
    kept.accept([0], [])
    kept.accept([], [0])
    assert given(kept, 0) == {KEPT_ROUND: 2}
