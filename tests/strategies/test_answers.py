from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.app import Message, RecordDict

from fedsplit import inprocess, simulate
from fedsplit.channel.ledger import Traffic
from fedsplit.errors import RunError
from fedsplit.links import PROFILES, Link
from fedsplit.messages import Measurements
from fedsplit.serving import Engine, open_grpc
from fedsplit.split.server import RoundReport, StreamReport
from strategies.answers import Answered, check_enough, cost_of, results_of
from tests.conftest import TINY, Run, weights

pytestmark = pytest.mark.usefixtures("undrawn")

LINK = Link(uplink_mbps=8.0, downlink_mbps=80.0, latency_ms=100.0)
# Equal shards: 36 training images of each client, which is 4 batches of 8 and one of 4.
EQUAL = {
    "data_partitioner": "iid",
    "data_max_train_samples": 160,
    "network_profile": "4g",
    "fraction_evaluate": 0.0,
}
EXCHANGES = 2 * 5 + 1  # two epochs, and FINISH


def _measured(waited: float) -> Measurements:
    return Measurements(num_examples=8, loss=0.5, accuracy=0.5, channel_seconds=waited)


def _reply() -> Message:
    return Message(RecordDict(), reply_to=Message(RecordDict(), 1, "train"))


def _answered() -> Answered:
    """Two that finish and one that fails half-way."""
    streams = {
        0: StreamReport(Traffic(1_000_000, 10_000_000), 3, 3, 0.5),
        1: StreamReport(Traffic(2_000_000, 10_000_000), 2, 2, 1.75),
        2: StreamReport(Traffic(500_000, 0), 1, 0, 0.0),
    }
    traffic = sum((stream.traffic for stream in streams.values()), Traffic())
    return Answered(
        good={0: _reply(), 1: _reply()},
        failures={2: "it stumbled"},
        measured={0: _measured(2.0), 1: _measured(2.25)},
        report=RoundReport(traffic, {0: 8, 1: 8}, {2: "it stumbled"}, streams),
        sync_uplink={0: 1_000_000, 1: 1_000_000},
        sync_downlink=dict.fromkeys(range(3), 10_000_000),
    )


def test_the_longest_participant_counts() -> None:
    """Break it: leave out the weights, or their two messages."""
    # 3 MB up, 20 MB down; two frames and the reply up, the message and two frames down
    assert _answered().simulated_seconds(LINK) == pytest.approx(3.0 + 2.0 + 6 * 0.1)
    assert _answered().measured_seconds() == 1.5  # of client 0, though client 1 waited longer


def test_what_came_one_after_another_adds_up() -> None:
    cost = cost_of([_answered(), _answered()], LINK)
    assert cost["simulated_communication_seconds"] == pytest.approx(2 * 5.6)
    assert cost["communication_seconds"] == 3.0
    assert (cost["sync_uplink_bytes"], cost["sync_downlink_bytes"]) == (4_000_000, 60_000_000)


def test_nothing_is_simulated_without_a_link() -> None:
    assert "simulated_communication_seconds" not in cost_of([_answered()], None)


def _by_hand(row: dict[str, Any], participants: int, exchanges: int) -> float:
    """Return the time of one of so many participants with equal shares of a round's bytes."""
    messages = exchanges + 1
    return PROFILES["4g"].seconds(
        uplink_bytes=((row["cut_uplink_bytes"] or 0) + row["sync_uplink_bytes"]) // participants,
        downlink_bytes=((row["cut_downlink_bytes"] or 0) + row["sync_downlink_bytes"])
        // participants,
        uplink_messages=messages,
        downlink_messages=messages,
    )


@pytest.mark.parametrize(
    ("strategy", "topology", "at_once", "exchanges"),
    [
        ("sflv1", "vanilla", 1, EXCHANGES),
        ("sflv2", "vanilla", 1, EXCHANGES),
        ("sflv3", "vanilla", 1, EXCHANGES),
        ("sflv1", "u-shaped", 1, 2 * 10 + 1),
        ("sequential", "vanilla", 4, EXCHANGES),
        ("full", "vanilla", 1, 0),
    ],
)
def test_simulated_time_of_a_run_by_hand(
    run: Run, strategy: str, topology: str, at_once: int, exchanges: int
) -> None:
    result = run(strategy=strategy, split_topology=topology, **EQUAL)
    times = [row["simulated_communication_seconds"] for row in result.rounds]
    # SFLV3's weights go to clients in the first round only, and to be scored otherwise.
    expected = [at_once * _by_hand(row, 4, exchanges) for row in result.rounds]
    assert times == pytest.approx(expected, rel=1e-12)
    assert result.summary["simulated_communication_seconds"] == sum(times)
    assert result.summary["network_profile"] == "4g"


def test_pooled_training_sends_nothing(run: Run) -> None:
    summary = run(strategy="centralized", **EQUAL).summary
    assert summary["simulated_communication_seconds"] == 0.0
    assert summary["communication_seconds"] is None


def test_a_profile_changes_neither_bytes_nor_bits(run: Run) -> None:
    with_profile, without = run(network_profile="4g"), run()
    assert without.summary["simulated_communication_seconds"] is None
    for key in [key for key in without.rounds[0] if "bytes" in key]:
        assert [r[key] for r in with_profile.rounds] == [r[key] for r in without.rounds]
    assert all((weights(with_profile)[k] == w).all() for k, w in weights(without).items())


@pytest.mark.parametrize("strategy", ["sflv1", "sequential"])
def test_over_grpc_the_simulated_time_is_the_same_and_the_measured_one_is_there(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, strategy: str
) -> None:
    changes = {"strategy": strategy, "network_profile": "wifi", "num_server_rounds": 1}
    direct = run(**changes)
    monkeypatch.setattr(inprocess, "IN_PROCESS", Engine("inprocess", open_grpc))
    wire = simulate({**TINY, "output-dir": str(tmp_path)}, **changes)
    key = "simulated_communication_seconds"
    assert [row[key] for row in wire.rounds] == [row[key] for row in direct.rounds]
    measured, in_process = (r.summary["communication_seconds"] for r in (wire, direct))
    # Each of the slowest client's frames is encoded, sent and decoded, and none is without a wire.
    assert 0 <= in_process < measured < wire.summary["wall_seconds"]


def _counted(good: int, failed: dict[int, str]) -> Answered:
    replies = {client: cast("Message", None) for client in range(good)}
    return Answered(replies, failed, {}, None, {}, {})


def test_a_round_with_too_few_contributions_is_refused_by_name() -> None:
    """Break it: count the participants instead of the contributions."""
    check_enough(3, [_counted(2, {7: "gone"})], 2)
    check_enough(3, [_counted(0, {})], 1)  # nobody was asked: the server trains
    with pytest.raises(RunError, match=r"Every participant of round 3 failed\. First: gone"):
        check_enough(3, [_counted(0, {7: "gone", 8: "late"})], 1)
    with pytest.raises(
        RunError,
        match=r"Round 3 has 2 complete contributions, fewer than min-participants = 3\. Missing: "
        r"clients 4, 7\. First: late",
    ):
        check_enough(3, [_counted(1, {7: "gone"}), _counted(1, {4: "late"})], 3)


def test_results_of_clients_are_in_the_order_of_their_ids() -> None:
    """Break it: keep the order of arrival, or those that have scored nothing."""
    nothing = Measurements(num_examples=0, loss=0.0, accuracy=0.0, channel_seconds=0.0)
    found = results_of([{7: _measured(1.0)}, {2: _measured(3.0), 3: nothing}])
    assert list(found) == [2, 7]
    assert found[2] == found[7] == {"examples": 8, "loss": 0.5, "accuracy": 0.5}


@pytest.mark.parametrize("strategy", ["sflv1", "sflv2", "sflv3", "sequential", "parallel", "full"])
def test_every_strategy_keeps_the_results_of_its_clients(run: Run, strategy: str) -> None:
    """Break it: leave `note_clients` out of `_note_train` or `aggregate_evaluate`."""
    result = run(strategy=strategy)
    path = Path(result.run_dir) / "clients.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["round"] for line in lines] == [row["round"] for row in result.rounds]
    for line, row in zip(lines, result.rounds, strict=True):
        for phase, loss in (("train", "train_loss"), ("validation", "validation_loss")):
            of = line[phase]
            assert of["clients"] == sorted(of["clients"])
            weighted = zip(of["examples"], of["loss"], strict=True)
            mean = sum(n * value for n, value in weighted) / sum(of["examples"])
            assert mean == pytest.approx(row[loss])
