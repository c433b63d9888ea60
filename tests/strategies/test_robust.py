from __future__ import annotations

import pytest
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, FedMedian

from fedsplit.config import AggregationConfig
from strategies.aggregation import make_aggregator
from strategies.robust import is_robust, measures_distances


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
