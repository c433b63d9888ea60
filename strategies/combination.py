"""Combine the accepted contributions of a round into the weights of the next one."""

from __future__ import annotations

from collections.abc import Collection

import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Strategy

from fedsplit.arrays import to_state
from fedsplit.errors import RunError
from strategies.answers import Answered
from strategies.buffers import average_buffers
from strategies.replies import keep_for_aggregator, mean_of_metrics, with_dtypes_of, without


def combine_contributions(
    aggregator: Strategy,
    server_round: int,
    answered: Answered,
    *,
    sent: ArrayRecord,
    buffers: Collection[str],
) -> tuple[ArrayRecord, MetricRecord]:
    """Combine checked replies, whose weights are all in the same order.

    Only parameters go through the aggregator. Buffers, such as running statistics, are averaged by
    n_k over all accepted participants.

    Parameters
    ----------
    aggregator : Strategy
        Any of Flower's.
    server_round : int
        From 1.
    answered : Answered
        The round's accepted replies. An aggregator may empty them.
    sent : ArrayRecord
        The weights that clients were given, whose names, order and dtypes the result has.
    buffers : Collection[str]
        Which of these are buffers.

    Raises
    ------
    RunError
        If the aggregator returns no weights, or weights that are not finite.
    """
    replies = list(answered.good.values())
    averaged = average_buffers(answered, buffers)
    if not without(sent, buffers):  # clients have nothing to train
        return averaged, mean_of_metrics(replies)
    count, name = len(replies), type(aggregator).__name__
    for client, reply in answered.good.items():
        keep_for_aggregator(reply, answered.measured[client], buffers)
    arrays, metrics = aggregator.aggregate_train(server_round, replies)
    # One half of the model must not change without the other.
    if arrays is None or metrics is None:
        raise RunError(
            f"The aggregator {name} returns no weights for the {count} contributions of round "
            f"{server_round}. Use more clients, another aggregation.name, or other "
            "aggregation.options."
        )
    arrays = with_dtypes_of(arrays, sent)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in to_state(arrays).values()):
        raise RunError(
            f"The weights that {name} computes in round {server_round} hold NaN or infinity. "
            "Change aggregation.options, or lower learning-rate."
        )
    both = {**arrays, **averaged}
    return ArrayRecord({name: both[name] for name in sent}), metrics
