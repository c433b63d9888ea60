"""Combine the accepted contributions of a round into the weights of the next one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy

from fedsplit.arrays import to_state
from fedsplit.errors import FedSplitError, RunError
from strategies.answers import Answered
from strategies.buffers import average_buffers
from strategies.replies import keep_for_aggregator, mean_of_metrics, with_dtypes_of, without
from strategies.robust import measures_distances


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
        Any of Flower's kind. Loss and accuracy are averaged here, whatever it makes of them.
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
        If the aggregator fails, or returns no weights, other ones, or weights that are not finite.
    """
    replies = list(answered.good.values())
    averaged = average_buffers(answered, buffers)
    if not without(sent, buffers):  # clients have nothing to train
        return averaged, mean_of_metrics(replies)
    count, name = len(replies), type(aggregator).__name__
    doubled = measures_distances(aggregator)
    for client, reply in answered.good.items():
        keep_for_aggregator(reply, answered.measured[client], buffers, doubled=doubled)
    metrics = mean_of_metrics(replies)  # before an aggregator may empty them
    arrays = _aggregated(aggregator, server_round, replies)
    # One half of the model must not change without the other.
    if arrays is None:
        raise RunError(
            f"The aggregator {name} returns no weights for the {count} contributions of round "
            f"{server_round}. Use more clients, another aggregation.name, or other "
            "aggregation.options."
        )
    _check_same_weights(arrays, without(sent, buffers), name)
    arrays = with_dtypes_of(arrays, sent)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in to_state(arrays).values()):
        raise RunError(
            f"The weights that {name} computes in round {server_round} hold NaN or infinity. "
            "Change aggregation.options, or lower learning-rate."
        )
    both = {**arrays, **averaged}
    return ArrayRecord({name: both[name] for name in sent}), metrics


def combine_scores(
    aggregator: Strategy, server_round: int, replies: Sequence[Message]
) -> MetricRecord | None:
    """Return the mean loss and accuracy of checked replies; None if there is none.

    Parameters
    ----------
    aggregator : Strategy
        Is shown the replies, as in Flower's own rounds.
    server_round : int
        From 1.
    replies : Sequence[Message]
        Of clients that have evaluated on images.
    """
    scores = mean_of_metrics(replies) if replies else None
    aggregator.aggregate_evaluate(server_round, replies)
    return scores


def _aggregated(
    aggregator: Strategy, server_round: int, replies: Sequence[Message]
) -> ArrayRecord | None:
    try:
        return aggregator.aggregate_train(server_round, replies)[0]
    except FedSplitError:
        raise
    except Exception as error:  # an aggregator may be the user's own code
        raise RunError(
            f"The aggregator {type(aggregator).__name__} failed in round {server_round} "
            f"({type(error).__name__}: {error}). Correct it, or use another aggregation.name."
        ) from error


def _check_same_weights(arrays: ArrayRecord, sent: ArrayRecord, name: str) -> None:
    """Refuse weights that are not those of the clients' part."""
    ours = {key: tuple(array.shape) for key, array in sent.items()}
    theirs = {key: tuple(array.shape) for key, array in arrays.items()}
    if theirs != ours:
        wrong = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
        first = wrong[0]
        raise RunError(
            f"The aggregator {name} returns other weights than those of the clients: '{first}' is "
            f"{theirs.get(first, 'missing')}, and {ours.get(first, 'nothing')} was sent"
            f"{f'; {len(wrong)} differ in all' if len(wrong) > 1 else ''}. Return an ArrayRecord "
            "with the names and shapes of the replies."
        )
