"""Robust aggregators: those that a few hostile clients of a round cannot move far."""

from __future__ import annotations

from flwr.serverapp.strategy import Bulyan, FedMedian, FedTrimmedAvg, MultiKrum, Strategy

from strategies.own_aggregator import wrapped

_BY_DISTANCE = (MultiKrum, Bulyan)  # Krum is a MultiKrum
_ROBUST = (FedMedian, FedTrimmedAvg, *_BY_DISTANCE)


def is_robust(aggregator: Strategy) -> bool:
    """Return whether an aggregator, or one that it wraps, is a robust rule.

    One of the user's own says so with an attribute ``robust = True``.
    """
    return any(map(stays_among, wrapped(aggregator)))


def stays_among(aggregator: Strategy) -> bool:
    """Return whether what an aggregator returns lies among what it is given.

    Not what one around a robust rule returns: differential privacy adds noise to it.
    """
    return isinstance(aggregator, _ROBUST) or getattr(aggregator, "robust", False) is True


def measures_distances(aggregator: Strategy) -> bool:
    """Return whether an aggregator compares contributions by their distances.

    Flower computes them as ``||x||^2 + ||y||^2 - 2 x.y``. In single precision nothing of that is
    left where large models lie close to each other, and the choice would be one of chance.
    """
    return any(isinstance(each, _BY_DISTANCE) for each in wrapped(aggregator))


def tolerated(aggregator: Strategy, participants: int) -> int:
    """Return how many hostile ones of a round's participants a robust aggregator resists.

    Yin et al., ICML 2018 (median, trimmed mean); Blanchard et al., NeurIPS 2017 (Krum); El Mhamdi
    et al., ICML 2018 (Bulyan). Of one of the user's own nothing is known: all.
    """
    for each in wrapped(aggregator):
        if isinstance(each, FedMedian):
            return (participants - 1) // 2
        if isinstance(each, FedTrimmedAvg):
            return int(each.beta * participants)
        if isinstance(each, _BY_DISTANCE):
            expected = int(each.num_malicious_nodes)
            fewest = 4 * expected + 3 if isinstance(each, Bulyan) else 2 * expected + 3
            return expected if participants >= fewest else 0
    return participants
