from __future__ import annotations

import pytest
from flwr.app import RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, MultiKrum, QFedAvg

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
    assert isinstance(adam := _make("FedAdam", "eta = 1"), FedAdam)
    assert adam.eta == 1.0
    assert isinstance(krum := _make("MultiKrum", "num-nodes-to-select = 2"), MultiKrum)
    assert krum.num_nodes_to_select == 2
    assert isinstance(_make("QFedAvg", "client-learning-rate = 0.1"), QFedAvg)


def test_every_strategy_can_be_made_with_its_defaults() -> None:
    names = """Bulyan FedAdagrad FedAdam FedAvg FedAvgM FedMedian FedProx FedTrimmedAvg FedYogi
        Krum MultiKrum"""
    assert [type(_make(name)).__name__ for name in names.split()] == names.split()


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
        ("Strategy", "", "not a Flower strategy"),
        ("FedXgbBagging", "", "not a Flower strategy"),  # it combines trees
        ("FedAvg", "eta = 1.0", "has eta, which FedAvg does not take"),
        ("FedAdam", "eta = ", "cannot be read .*'eta = 0.1, tau = 0.001'"),
        ("FedAdam", "beta-1 = 0.9, beta_1 = 0.5", "beta_1 in two spellings. Keep one"),
        ("FedAdam", "beta_1 = 0.9, beta-1 = 0.9", "beta_1 in two spellings. Keep one"),
        ("FedAvg", "fraction-train = 0.5", "fraction_train, which FedAvg does not take"),
        ("FedAvg", "arrayrecord-key = 'x'", "arrayrecord_key, which FedAvg does not take"),
        ("FedAvg", "train-metrics-aggr-fn = 'x'", "which FedAvg does not take"),
        ("FedAvg", "eta = 1.0", "FedAvg does not take; it takes no options"),
        ("QFedAvg", "", "'' lacks client_learning_rate, .*such as 'client-learning-rate = 0.1'"),
        ("FedAdam", "eta = 'a'", "eta = 'a'; for FedAdam it must be a number"),
        ("FedAdam", "eta = true", "eta = True; .* a number"),
        ("FedAdam", "eta = [1]", r"eta = \[1\]; .* a number"),
        ("FedAdam", "tau = nan", "tau = nan; .* a finite number"),
        ("FedAdam", "tau = inf", "tau = inf; .* a finite number"),
        ("FedAdam", "tau = 9223372036854775808", "a finite number"),
        ("FedAdam", "eta = -inf", "eta = -inf; .* at least 0"),
        ("FedProx", "proximal-mu = -1.0", "proximal_mu = -1.0; .* at least 0"),
        ("MultiKrum", "num-nodes-to-select = -3", "num_nodes_to_select = -3; .* at least 0"),
        ("MultiKrum", "num-nodes-to-select = 1.5", "= 1.5; .* a whole number"),
        ("FedTrimmedAvg", "beta = 0.7", r"'beta = 0.7': .*range \[0, 0.5\)"),
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
