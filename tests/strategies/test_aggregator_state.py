from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import Strategy

from fedsplit.arrays import to_state
from fedsplit.config import AggregationConfig
from fedsplit.messages import Measurements
from fedsplit.snapshot import from_bytes, to_bytes
from strategies.aggregation import make_aggregator
from strategies.aggregator_state import aggregator_state, load_aggregator_state
from tests.strategies.grids import ScriptedGrid, describes

NAMES = ["FedAvg", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad", "FedMedian", "QFedAvg"]
OPTIONS = {"FedAvgM": "server-momentum = 0.9", "QFedAvg": "client-learning-rate = 0.1"}


def _round(aggregator: Strategy, server_round: int, sent: ArrayRecord) -> ArrayRecord:
    grid = ScriptedGrid({1: describes(0)})
    list(aggregator.configure_train(server_round, sent, ConfigRecord(), grid))
    measured = Measurements(num_examples=4, loss=0.5, accuracy=0.0, channel_seconds=0.0)
    trained = {name: tensor * 0.5 + server_round for name, tensor in to_state(sent).items()}
    content = RecordDict({"arrays": ArrayRecord(trained), "metrics": measured.to_record()})
    reply = Message(content, reply_to=Message(RecordDict(), 1, "train"))
    arrays, _ = aggregator.aggregate_train(server_round, [reply])
    assert arrays is not None
    return arrays


@pytest.mark.parametrize("name", NAMES)
def test_an_aggregator_goes_on_from_its_state(name: str) -> None:
    """Break it: leave out dicts of arrays (FedAdam's moments), or lists (FedAvgM's momentum)."""
    settings = AggregationConfig(name=name, options=OPTIONS.get(name, ""))
    first, second = make_aggregator(settings), make_aggregator(settings)
    arrays = ArrayRecord({"w": torch.tensor([1.0, -2.0])})
    for server_round in (1, 2):
        arrays = _round(first, server_round, arrays)
    load_aggregator_state(second, from_bytes(to_bytes(aggregator_state(first))))
    one, other = (_round(aggregator, 3, arrays) for aggregator in (first, second))
    assert torch.equal(to_state(one)["w"], to_state(other)["w"])


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdam"])
def test_without_its_state_it_goes_elsewhere(name: str) -> None:
    """The test above can fail."""
    settings = AggregationConfig(name=name, options=OPTIONS.get(name, ""))
    first, fresh = make_aggregator(settings), make_aggregator(settings)
    arrays = ArrayRecord({"w": torch.tensor([1.0, -2.0])})
    for server_round in (1, 2):
        arrays = _round(first, server_round, arrays)
    one, other = (_round(aggregator, 3, arrays) for aggregator in (first, fresh))
    assert not torch.equal(to_state(one)["w"], to_state(other)["w"])
