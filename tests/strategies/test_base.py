from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import nn

from fedsplit import Config
from fedsplit.channel.ledger import Traffic
from fedsplit.config import STRATEGY_NAMES
from fedsplit.errors import RunError
from fedsplit.split.in_turn import InTurn
from fedsplit.split.phases import Purpose
from fedsplit.split.server import RoundReport
from fedsplit.split.totals import Work
from strategies import STRATEGIES
from strategies.clients import Clients
from strategies.context import RunContext
from strategies.full import Full
from strategies.sflv1 import SFLV1
from tests.split.toys import config_of, settings_of
from tests.strategies.grids import ScriptedGrid, describes, fails, instructions_of

ARRAYS = ArrayRecord({"w": torch.zeros(2)})
NODES = {0: 50, 1: 40, 2: 30, 3: 20}


class _Tokens:
    """As much of a split server as a round's messages need."""

    rule: Any = None

    def __init__(self) -> None:
        self.opened: list[tuple[Purpose, list[int]]] = []

    def open_round(
        self,
        purpose: Purpose,
        participants: list[int],
        server_round: int,
        *,
        progress: object,
        work: Mapping[int, Work],
    ) -> dict[int, str]:
        assert set(work) == set(participants)
        self.opened.append((purpose, list(participants)))
        return {client: f"{len(self.opened)}-{client}" for client in participants}


def _strategy(kind: type[Full] | type[SFLV1], server: Any = None, **keys: object) -> Any:  # noqa: ANN401
    return kind(
        RunContext(
            config=Config.load(keys),
            clients=Clients(NODES, {node: [100] for node in NODES}),
            instructions=instructions_of(kind, channel_address="direct:1"),
            note=lambda **_: None,
            server=server,
        )
    )


def _messages(strategy: Any, server_round: int = 1, what: str = "train") -> list[Message]:  # noqa: ANN401
    grid = ScriptedGrid({node: describes(0) for node in NODES.values()})
    configure = getattr(strategy, f"configure_{what}")
    return list(configure(server_round, ARRAYS, ConfigRecord({"lr": 0.5}), grid))


def test_every_participant_has_a_token_of_its_own() -> None:
    server = _Tokens()
    messages = _messages(_strategy(SFLV1, server), server_round=3)

    assert [m.metadata.dst_node_id for m in messages] == [50, 40, 30, 20]  # by partition id
    configs = [m.content.config_records["config"] for m in messages]
    assert [c["channel-token"] for c in configs] == ["1-0", "1-1", "1-2", "1-3"]
    for config in configs:
        assert config["server-round"] == 3
        assert config["num-clients"] == 4
        assert config["channel-address"] == "direct:1"
    assert {m.metadata.message_type for m in messages} == {"train"}
    assert server.opened == [(Purpose.TRAIN, [0, 1, 2, 3])]


def test_an_aggregator_that_protects_one_half_is_warned_of_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Break it: leave the warning out of `summary`."""
    server = _Tokens()
    shared: Any = InTurn(nn.Linear(1, 1), settings_of(config_of()))
    server.rule = shared
    for name, said in (("FedMedian", 1), ("FedAvg", 0)):
        caplog.clear()
        _strategy(SFLV1, server, **{"aggregation.name": name}).summary()
        found = [r for r in caplog.records if r.levelname == "WARNING"]
        assert len(found) == said
        assert all("FedMedian protects only what clients train" in r.getMessage() for r in found)
    shared.close()


def test_unsplit_messages_have_no_token() -> None:
    for message in _messages(_strategy(Full)):
        assert message.content.config_records["config"]["channel-token"] == ""


def test_only_the_sampled_take_part() -> None:
    strategy = _strategy(Full, fraction_train=0.5, fraction_evaluate=0.25)
    sampled = strategy.clients.sample(0.5, 42, "train", 1)
    assert [m.metadata.dst_node_id for m in _messages(strategy)] == [NODES[c] for c in sampled]
    assert len(_messages(strategy, what="evaluate")) == 1
    assert _messages(_strategy(Full, fraction_evaluate=0.0), what="evaluate") == []


def test_evaluation_is_a_round_of_its_own() -> None:
    server = _Tokens()
    strategy = _strategy(SFLV1, server)
    _messages(strategy)
    messages = _messages(strategy, what="evaluate")
    assert [purpose for purpose, _ in server.opened] == [Purpose.TRAIN, Purpose.EVALUATE]
    assert messages[0].content.config_records["config"]["channel-token"] == "2-0"
    assert {m.metadata.message_type for m in messages} == {"evaluate"}


def test_no_contribution_at_all_ends_the_run() -> None:
    strategy = _strategy(Full)
    replies = [fails("out of memory")(message) for message in _messages(strategy)]
    with pytest.raises(RunError, match=r"Every participant of round 1 failed.*out of memory"):
        strategy.aggregate_train(1, replies)


class _Counted(_Tokens):
    """A split server that has counted 8 examples of every client."""

    def report(self) -> RoundReport:
        return RoundReport(Traffic(), dict.fromkeys(NODES, 8), {}, {})


def test_a_client_that_claims_more_than_it_scored_is_left_out_of_the_evaluation() -> None:
    strategy = _strategy(SFLV1, _Counted())
    replies = [
        Message(
            RecordDict(
                {
                    "metrics": MetricRecord(
                        {
                            "num-examples": n,
                            "loss": loss,
                            "accuracy": loss,
                            "channel-seconds": 0.5,
                        }
                    )
                }
            ),
            reply_to=message,
        )
        for message, n, loss in zip(
            _messages(strategy, what="evaluate"),
            [8, 800, 8, 8],
            [0.5, 9.0, 0.25, 0.75],
            strict=True,
        )
    ]
    metrics = strategy.aggregate_evaluate(1, replies)
    assert metrics["loss"] == pytest.approx(0.5)


def test_every_strategy_of_the_config_has_its_class() -> None:
    assert sorted(STRATEGIES) == sorted(STRATEGY_NAMES)
    assert [name for name, kind in STRATEGIES.items() if kind.update_rule is None] == [
        "full",
        "centralized",
    ]
