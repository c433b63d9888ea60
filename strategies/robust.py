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
