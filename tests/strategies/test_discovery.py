from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import cast

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedsplit import Config
from fedsplit.errors import ConfigError, RunError
from fedsplit.messages import Description
from fedsplit.split.server import SplitServer
from strategies.clients import Clients
from strategies.discovery import discover
from strategies.full import Full
from tests.strategies.grids import Answer, ScriptedGrid, describes, fails, instructions_of


def _discover(
    answers: dict[int, Answer], num_clients: int = 0, fewest: int = 1, *, sites: bool = True
) -> Clients:
    config = Config.from_flat(
        {"num-clients": num_clients, "connect-timeout": 0.1, "min-participants": fewest}
    )
    grid, told = ScriptedGrid(answers), instructions_of(Full)
    return discover(grid, config, instructions=told, may_be_left_out=sites)


def test_clients_are_known_by_partition_id() -> None:
    clients = _discover({91: describes(2, 5, 6), 17: describes(0, 1, 2), 55: describes(1, 3, 4)})
    assert list(clients.node_ids.items()) == [(0, 17), (1, 55), (2, 91)]
    assert clients.class_counts == {0: [1, 2], 1: [3, 4], 2: [5, 6]}


def test_who_has_images_of_its_own_is_known() -> None:
    """Break it: forget what a client has said of its folder."""

    def own(message: Message) -> Message:
        told = Description(partition_id=1, class_counts=[1, 1], own_images=True)
        return Message(RecordDict({"config": told.to_record()}), reply_to=message)

    clients = _discover({91: describes(0, 5, 6), 17: own})
    assert list(clients.own_images) == [1]
    assert clients.divided_by("iid") == "iid; own images: client 1"


def test_everyone_is_told_how_many_take_part() -> None:
    grid = ScriptedGrid({8: describes(0, 1), 9: describes(1, 1), 7: describes(2, 1)})
    config = Config.from_flat({"num-clients": 2})
    clients = discover(grid, config, instructions=instructions_of(Full))

    assert clients.node_ids == {0: 8, 1: 9}  # the third is not needed
    for message in grid.sent:
        asked = message.content.config_records["config"]
        assert (asked["num-clients"], asked["num-labels"]) == (2, 2)
        assert message.metadata.message_type == "query.describe"


TWINS = {7: describes(0, 1), 8: describes(1, 1), 9: describes(1, 1), 6: describes(2, 1)}
BEYOND = {7: describes(0, 1), 8: describes(5, 1), 9: describes(1, 1), 6: describes(2, 1)}
NO_CLIENT = {7: describes(0, 1), 8: describes(5, 1), 9: describes(10**9, 1)}
MISNUMBERED = {
    "the same": (TWINS, "odes 8, 9: 2 SuperNodes have the same partition-id=1", [0, 2]),
    "beyond": (BEYOND, "ode 8: partition-id=5 is no client's", [0, 1, 2]),
    "both beyond": (NO_CLIENT, "ode 9: partition-id=1000000000 is no client's", [0]),
}


@pytest.mark.parametrize(("answers", "said", "left"), MISNUMBERED.values(), ids=MISNUMBERED)
def test_a_site_with_a_wrong_number_costs_only_those_who_have_it(
    answers: dict[int, Answer], said: str, left: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: end the run, or believe the first who says so."""
    assert list(_discover(answers).node_ids) == left
    assert said.replace(":", " cannot take part:", 1) in caplog.text
    assert "Give each SuperNode its own number from 0 to" in caplog.text
    with pytest.raises(RunError, match=f"cannot take part: .*{said}"):
        _discover(answers, sites=False)


def test_too_few_nodes_within_bounded_time() -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        _discover({7: describes(0, 1)}, num_clients=3)
    assert time.monotonic() - started < 10
    for part in (
        *("num-clients = 3", "1 SuperNodes", "0.1 seconds (connect-timeout)"),
        *('--federation-config "num-supernodes=3"', "fedsplit run . --num-clients 3"),
    ):
        assert part in str(caught.value)


def test_no_nodes_at_all() -> None:
    with pytest.raises(ConfigError, match="0 SuperNodes are connected"):
        _discover({})


def test_a_client_that_cannot_take_part_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Break it: end the run, or take those that are left for the clients from 0."""
    clients = _discover({7: describes(0, 1), 8: fails("no data here"), 9: describes(2, 1)})
    assert clients.node_ids == {0: 7, 2: 9}
    assert list(clients.class_counts) == [0, 1, 2]
    assert sum(clients.class_counts[1]) == 0 < sum(clients.class_counts[2])
    assert caplog.messages == [
        "Node 8 cannot take part: no data here",
        "The run goes without client 1",
    ]
    assert clients.sample(1.0, 0, "train", 1) == [0, 2]
    assert {k for n in range(20) for k in clients.sample(0.5, 0, "train", n)} == {0, 2}


def test_in_a_simulation_a_client_that_cannot_take_part_ends_the_run() -> None:
    """Its data are those of the person who made the run. Break it: go on with fewer clients."""
    with pytest.raises(RunError, match=r"^A client cannot take part: node 8: no data here$"):
        _discover({7: describes(0, 1), 8: fails("no data here")}, sites=False)


def test_fewer_than_min_participants_end_the_run() -> None:
    answers = {7: describes(0, 1), 8: fails("no data here"), 9: fails("no data here")}
    said = "2 clients cannot take part, and 1 are fewer than min-participants = 2: nodes 8"
    with pytest.raises(RunError, match=said):
        _discover(answers, fewest=2)


def test_a_client_that_cannot_reach_the_split_server_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Description(partition_id=1, class_counts=[1, 1], channel_fault="The certificate expired")
    answer = says(RecordDict({"config": told.to_record()}))
    assert _discover({7: describes(0, 1), 8: answer}).node_ids == {0: 7}
    assert caplog.messages[0] == "Node 8 (client 1) cannot take part: The certificate expired"


def says(content: RecordDict) -> Answer:
    return lambda message: Message(content, reply_to=message)


HOSTILE: dict[str, tuple[RecordDict, str]] = {
    "nothing": (RecordDict(), r"holds the records \[\], not 'config'"),
    "another record": (RecordDict({"config": MetricRecord({"a": 1})}), r"records \['config'\]"),
    "no fields": (RecordDict({"config": ConfigRecord({})}), "partition-id: Field required"),
    "a list": (
        RecordDict({"config": ConfigRecord({"partition-id": [1], "class-counts": [1, 1]})}),
        "partition-id: Input should be a valid integer",
    ),
    "10^18 images": (
        RecordDict({"config": ConfigRecord({"partition-id": 1, "class-counts": [10**18, 1]})}),
        "class-counts.0: Input should be less than or equal to 1000000000",
    ),
    "classes": (
        RecordDict({"config": ConfigRecord({"partition-id": 1, "class-counts": [1, 2, 3]})}),
        "it counts 3 classes, not 2",
    ),
    "negative": (
        RecordDict({"config": ConfigRecord({"partition-id": -1, "class-counts": [1, 2]})}),
        "partition-id: Input should be greater than or equal to 0",
    ),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_answer_is_named_and_left_out(
    content: RecordDict, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: trust the records of an answer, and a KeyError ends the start."""
    answers = {7: describes(0, 1), 8: describes(1, 1), 9: says(content)}
    assert _discover(answers, num_clients=2).node_ids == {0: 7, 1: 8}
    (message,) = caplog.messages
    assert re.search(f"^Node 9( .client 1.)? cannot take part: .*{words}", message)
    caplog.clear()
    assert _discover({7: describes(0, 1), 9: says(content)}).node_ids == {0: 7}
    assert re.search(f"^Node 9.* cannot take part: .*{words}", caplog.messages[0])
    assert caplog.messages[1] == "The run goes without client 1"


def test_a_node_that_does_not_answer_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Silent(ScriptedGrid):
        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> Iterable[Message]:
            return [m for m in super().send_and_receive(messages) if m.metadata.src_node_id != 8]

    grid = Silent({7: describes(0, 1), 8: describes(1, 1)})
    config = Config.from_flat({"round-timeout": 3.0})
    told = instructions_of(Full)
    discover(grid, config, instructions=told, may_be_left_out=True)
    said = "Node 8 cannot take part: it did not answer within round-timeout = 3 seconds"
    assert caplog.messages[0] == said


def test_nodes_that_fail_alike_are_told_once() -> None:
    answers = {node: fails("no data here") for node in range(1, 9)}
    with pytest.raises(RunError) as caught:
        _discover(answers)
    assert str(caught.value) == (
        "8 clients cannot take part: nodes 1, 2, 3, 4, 5 and 3 more: no data here"
    )


def test_a_person_is_told_what_a_slow_start_waits_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(ScriptedGrid):
        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> Iterable[Message]:
            time.sleep(0.2)
            return super().send_and_receive(messages)

    caplog.set_level("INFO", logger="fedsplit.run")
    monkeypatch.setattr("strategies.discovery._QUIET_SECONDS", 0.01)
    grid = Slow({7: describes(0, 1), 8: describes(1, 1)})
    discover(grid, Config.from_flat({}), instructions=instructions_of(Full))
    assert "Asking 2 clients what they hold" in caplog.text


class _Meeting:
    """A rendezvous to which node 8 did not come."""

    def open_round(self, purpose: object, nodes: Sequence[int]) -> dict[int, str]:
        return {node: f"token {node}" for node in nodes}

    def report(self) -> SimpleNamespace:
        return SimpleNamespace(failures={8: "It did not connect within 60 seconds"})


def test_a_site_that_does_not_come_to_the_rendezvous_is_named_and_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In a simulation the run's own setting is wrong, and it ends with the remedy."""
    config = Config.from_flat({"strategy": "sflv2"})
    grid = ScriptedGrid({7: describes(0, 1), 8: describes(1, 1), 9: describes(2, 1)})

    def met(*, sites: bool) -> Clients:
        meeting = cast(SplitServer, _Meeting())
        told = instructions_of(Full)
        return discover(grid, config, instructions=told, rendezvous=meeting, may_be_left_out=sites)

    assert met(sites=True).node_ids == {0: 7, 2: 9}
    assert caplog.messages == [
        "Node 8 (client 1) cannot take part: It did not connect within 60 seconds",
        "The run goes without client 1",
    ]
    with pytest.raises(ConfigError, match=r"all 3 participants .* but only 2 could be connected"):
        met(sites=False)
