from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedsplit.errors import RunError
from fedsplit.messages import ARRAYS, CONFIG, KEPT_WEIGHTS, Instructions
from strategies.addressing import address_messages
from strategies.answers import Asked
from strategies.kept import KeptByClients
from strategies.sflv1 import SFLV1
from tests.strategies.grids import instructions_of

NODES = {2: 70, 0: 90, 1: 80}
"""Partition id -> node id."""


def _configured(node: int, **config: float) -> Message:
    content = RecordDict({CONFIG: ConfigRecord({"server-round": 3, **config})})
    return Message(content, dst_node_id=node, message_type="train")


def _weights(client: int) -> ArrayRecord:
    return ArrayRecord([np.full(1, float(client))])


def _addressed(
    messages: list[Message],
    *,
    sent: bool = True,
    tokens: dict[int, str] | None = None,
    lost: int | None = None,
    nodes: dict[int, int] | None = None,
) -> list[Message]:
    given = {message.metadata.dst_node_id for message in messages}
    nodes = nodes or {client: node for client, node in NODES.items() if node in given}
    kept = KeptByClients(lambda client: _weights(7))
    kept.accept([], [] if lost is None else [lost])
    return address_messages(
        messages,
        Asked(nodes, _weights(9) if sent else ArrayRecord()),
        instructions=instructions_of(SFLV1, server_round=3),
        tokens=tokens or {},
        weights_for=_weights,
        kept=kept,
    )


def _told(message: Message) -> Instructions:
    return Instructions.from_record(message.content.config_records[CONFIG])


def test_each_participant_gets_its_own_token_and_weights_in_the_order_of_partitions() -> None:
    """Break it: return messages in the order of the aggregator."""
    given = [_configured(node) for node in (80, 70, 90)]
    found = _addressed(given, tokens={0: "a", 1: "b", 2: "c"})
    assert [message.metadata.dst_node_id for message in found] == [90, 80, 70]
    assert [_told(message).channel_token for message in found] == ["a", "b", "c"]
    first = [message.content.array_records[ARRAYS].to_numpy_ndarrays()[0][0] for message in found]
    assert first == [0.0, 1.0, 2.0]
    assert {message.metadata.message_type for message in found} == {"train"}


def test_only_fedprox_mu_is_taken_from_the_aggregators_message() -> None:
    """Break it: copy the aggregator's config; the client then refuses its unknown fields."""
    (found,) = _addressed([_configured(80, **{"proximal-mu": 0.25, "lr": 7.0})])
    assert _told(found) == instructions_of(SFLV1, server_round=3, proximal_mu=0.25, kept_round=0)


def test_an_aggregator_that_samples_itself_ends_the_run() -> None:
    """Break it: address whatever messages there are; the others would then be waited for."""
    said = r"gives 1 of the 3 participants of round 3 no message \(client 2\).*set fraction-train"
    with pytest.raises(RunError, match=said):
        _addressed([_configured(80), _configured(90)], nodes=NODES)


def test_without_anything_to_train_no_weights_are_sent() -> None:
    (found,) = _addressed([_configured(80)], sent=False)
    assert list(found.content) == [CONFIG]


def test_a_client_that_has_lost_what_it_keeps_is_given_it_back() -> None:
    found = _addressed([_configured(node) for node in (70, 80)], lost=1)
    assert [KEPT_WEIGHTS in message.content for message in found] == [True, False]
