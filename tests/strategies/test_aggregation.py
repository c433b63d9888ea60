from __future__ import annotations

import pytest
from flwr.app import RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian

from fedsplit.config import AggregationConfig
from fedsplit.errors import ConfigError
from strategies.aggregation import SampledGrid, make_aggregator
from tests.strategies.grids import ScriptedGrid, describes


def _make(name: str = "FedAvg", options: str = "") -> object:
    return make_aggregator(AggregationConfig(name=name, options=options))


def test_options_reach_the_strategy() -> None:
    adam = _make("FedAdam", "eta = 0.25, tau = 1e-3, beta-1 = 0.5")
    assert isinstance(adam, FedAdam)
    assert (adam.eta, adam.tau, adam.beta_1) == (0.25, 1e-3, 0.5)
    assert type(_make("FedMedian")) is FedMedian


def test_whoever_has_replied_is_aggregated() -> None:
    aggregator = _make()
    assert isinstance(aggregator, FedAvg)
    assert (aggregator.fraction_train, aggregator.fraction_evaluate) == (1.0, 1.0)
    assert aggregator.min_available_nodes == 1


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("FedAwg", "", "aggregation.name = 'FedAwg' .*did you mean 'FedAvg'"),
        ("Zzz", "", "choose from Bulyan, FedAdagrad"),
        ("Strategy", "", "no Flower strategy"),
        ("FedXgbBagging", "", "no Flower strategy"),  # it combines trees
        ("FedAvg", "eta = 1.0", "has eta, which FedAvg does not take"),
        ("FedAdam", "eta = ", "cannot be read .*'eta = 0.1, tau = 0.001'"),
        ("FedAvg", "fraction-train = 0.5", "fraction_train, which FedAvg does not take"),
        ("FedAvg", "arrayrecord-key = 'x'", "arrayrecord_key, which FedAvg does not take"),
        ("FedAvg", "train-metrics-aggr-fn = 'x'", "which FedAvg does not take"),
        ("QFedAvg", "", "aggregation.options = '': .*client_learning_rate"),
    ],
)
def test_what_is_wrong_is_refused(name: str, options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _make(name, options)


def test_a_sampled_grid_shows_participants_only() -> None:
    grid = ScriptedGrid({number: describes(0) for number in (1, 2, 3)})
    sampled = SampledGrid(grid, [3, 1])
    assert list(sampled.get_node_ids()) == [3, 1]
    message = sampled.create_message(RecordDict(), "train", 3, "1")
    assert message.metadata.dst_node_id == 3
    for send in (sampled.send_and_receive, sampled.push_messages, sampled.pull_messages):
        with pytest.raises(NotImplementedError):
            send([])
    assert grid.sent == []
