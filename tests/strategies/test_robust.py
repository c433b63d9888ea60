from __future__ import annotations

import pytest
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, FedMedian

from fedsplit.config import AggregationConfig
from strategies.aggregation import make_aggregator
from strategies.robust import is_robust, measures_distances, tolerated


class Trimming(FedAvg):
    robust = True


def _found(name: str) -> tuple[bool, bool]:
    aggregator = make_aggregator(AggregationConfig(name=name))
    return is_robust(aggregator), measures_distances(aggregator)


@pytest.mark.parametrize(
    ("name", "robust", "distances"),
    [
        ("FedMedian", True, False),
        ("FedTrimmedAvg", True, False),
        ("Krum", True, True),
        ("MultiKrum", True, True),
        ("Bulyan", True, True),
        ("FedAvg", False, False),
        ("FedAdam", False, False),
        ("FedProx", False, False),
        (f"{__name__}:Trimming", True, False),
    ],
)
def test_which_aggregators_are_robust(name: str, robust: bool, distances: bool) -> None:
    """Break it: forget one of the classes, or the attribute."""
    assert _found(name) == (robust, distances)


def test_a_wrapper_is_as_robust_as_what_it_wraps() -> None:
    """Break it: look at the outermost aggregator only."""
    for inner, robust in ((FedMedian(), True), (FedAvg(), False)):
        wrapper = DifferentialPrivacyServerSideFixedClipping(inner, 0.1, 1.0, 2)
        assert is_robust(wrapper) is robust


@pytest.mark.parametrize(
    ("name", "options", "resisted"),
    [
        ("FedMedian", "", {1: 0, 2: 0, 3: 1, 4: 1, 5: 2}),
        ("FedTrimmedAvg", "", {4: 0, 5: 1, 10: 2}),
        ("FedTrimmedAvg", "beta = 0.4", {2: 0, 3: 1, 10: 4}),
        ("Krum", "", {10: 0}),
        ("Krum", "num-malicious-nodes = 1", {4: 0, 5: 1, 10: 1}),
        ("MultiKrum", "num-malicious-nodes = 2, num-nodes-to-select = 3", {6: 0, 7: 2}),
        ("Bulyan", "num-malicious-nodes = 1", {6: 0, 7: 1}),
        (f"{__name__}:Trimming", "", {1: 1, 10: 10}),
    ],
)
def test_how_many_hostile_ones_it_resists(
    name: str, options: str, resisted: dict[int, int]
) -> None:
    """Break it: say that Krum resists as many as its options expect, whatever their number."""
    aggregator = make_aggregator(AggregationConfig(name=name, options=options))
    assert {n: tolerated(aggregator, n) for n in resisted} == resisted
    around = DifferentialPrivacyServerSideFixedClipping(aggregator, 0.1, 1.0, 2)
    assert {n: tolerated(around, n) for n in resisted} == resisted
