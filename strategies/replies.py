"""Which replies of a round count: what comes off the wire is hostile until checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO

import torch
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from numpy.lib.format import read_array_header_1_0, read_magic

from fedsplit.arrays import in_dtype, stored_dtype, to_tensor
from fedsplit.errors import shorten

METRICS = frozenset({"num-examples", "loss", "accuracy", "channel-seconds"})
"""What every reply measures."""

_CONTROL = re.compile(r"\x1b\[[\d;]*m|[\x00-\x1f\x7f]")


def arrays_bytes(arrays: ArrayRecord) -> int:
    """Return the exact serialized length of a record of weights, as Flower sends it.

    The envelope (ids, addresses, time stamps) is left out: it depends on the engine.
    """
    return sum(len(part.deflate()) for part in get_all_nested_objects(arrays).values())


def reason_of(error: Error) -> str:
    """Return why a client failed, as one line: an engine may hand on a traceback in colours."""
    text = _CONTROL.sub(" ", error.reason or f"error {error.code}")
    return shorten(" ".join(text.split()))


def sort_replies(
    replies: Iterable[Message], participants: Mapping[int, int]
) -> tuple[dict[int, Message], dict[int, str]]:
    """Sort a round's replies by participant.

    Parameters
    ----------
    replies : Iterable[Message]
        In order of arrival.
    participants : Mapping[int, int]
        Partition id -> node id of everyone who was asked.

    Returns
    -------
    tuple[dict[int, Message], dict[int, str]]
        Good replies by partition id in ascending order, and why each other one is missing.
    """
    partition_of = {node: partition for partition, node in participants.items()}
    good: dict[int, Message] = {}
    failures = dict.fromkeys(participants, "no reply within round-timeout")
    for reply in replies:
        partition = partition_of.get(reply.metadata.src_node_id)
        if partition is None:
            continue  # nobody asked it
        if reply.has_error():
            failures[partition] = reason_of(reply.error)
        else:
            good[partition] = reply
            failures.pop(partition, None)
    return dict(sorted(good.items())), failures


def fault_of_train_reply(
    reply: Message, *, sent: ArrayRecord, num_examples: int | None
) -> str | None:
    """Return what is wrong with a reply to a train message, or None.

    Parameters
    ----------
    reply : Message
        A reply without an error of its own.
    sent : ArrayRecord
        The weights the client was given; it must return the same names, shapes and dtypes. If
        clients have none to train, its reply must have no record of weights.
    num_examples : int | None
        Examples the split server counted for this client; None if it has no part in the round.
    """
    records = ["arrays", "metrics"] if sent else ["metrics"]
    if sorted(reply.content) != records or (sent and not reply.content.array_records):
        named = " and ".join(f"'{record}'" for record in records)
        return f"its reply holds the records {sorted(reply.content)}, not {named}"
    fault = fault_of_metrics(reply, num_examples=num_examples)
    if fault is not None:
        return fault
    if num_examples_of(reply) < 1:
        return "its reply says that it trained on no examples"
    arrays = weights_of(reply)
    if set(arrays) != set(sent):
        return shorten(f"its weights are named {sorted(arrays)}, not {sorted(sent)}")
    return next(
        (fault for name in sent if (fault := _fault_of_array(name, arrays[name], sent[name]))), None
    )


def fault_of_metrics(reply: Message, *, num_examples: int | None) -> str | None:
    """Return what is wrong with the metrics of a reply, or None (see `fault_of_train_reply`)."""
    if list(reply.content.metric_records) != ["metrics"]:
        return "its reply holds no 'metrics'"
    metrics = reply.content.metric_records["metrics"]
    if set(metrics) != METRICS:
        return f"its metrics are {sorted(metrics)}, not {sorted(METRICS)}"
    count = metrics["num-examples"]
    if not isinstance(count, int) or count < 0:
        return f"its reply has num-examples = {count!r}, not a whole number"
    if num_examples is not None and count != num_examples:
        return f"it claims {count} examples where the split server saw {num_examples}"
    waited = metrics["channel-seconds"]
    if not isinstance(waited, float) or not 0 <= waited < math.inf:
        return f"its reply has channel-seconds = {waited!r}, not a finite number of at least 0"
    return _fault_of_scores(metrics["loss"], metrics["accuracy"])


def mean_of_metrics(replies: Sequence[Message]) -> MetricRecord:
    """Return the mean of loss and accuracy of checked replies, weighted by examples."""
    return aggregate_metricrecords([reply.content for reply in replies], "num-examples")


def in_order_of(arrays: ArrayRecord, sent: ArrayRecord) -> ArrayRecord:
    """Return checked weights in the order in which clients were sent them.

    A sender chooses its order, and some of Flower's aggregators combine by position.
    """
    return ArrayRecord({name: arrays[name] for name in sent})


def with_dtypes_of(arrays: ArrayRecord, sent: ArrayRecord) -> ArrayRecord:
    """Return aggregated weights in the dtypes that clients were sent.

    Some of Flower's aggregators (FedAdam and its kin) give float64 for float32, and those of 16
    bits are aggregated in float32.
    """
    return ArrayRecord({name: in_dtype(array, sent[name].dtype) for name, array in arrays.items()})


def weights_of(reply: Message) -> ArrayRecord:
    """Return the weights of a reply; none if it has no record of them."""
    return reply.content.array_records.get("arrays", ArrayRecord())


def num_examples_of(reply: Message) -> int:
    """Return the examples of a reply whose metrics have been checked."""
    count = reply.content.metric_records["metrics"]["num-examples"]
    assert isinstance(count, int)
    return count


def channel_seconds_of(reply: Message) -> float:
    """Return how long the client of a checked reply waited for the split server's answers."""
    waited = reply.content.metric_records["metrics"]["channel-seconds"]
    assert isinstance(waited, float)
    return waited


def _fault_of_scores(loss: object, accuracy: object) -> str | None:
    told = f"its loss and accuracy are {loss!r} and {accuracy!r}"
    if not (isinstance(loss, float) and isinstance(accuracy, float)):
        return f"{told}, not finite numbers"
    if not (math.isfinite(loss) and math.isfinite(accuracy)):
        return f"{told}, not finite numbers; lower learning-rate"
    if loss < 0 or not 0 <= accuracy <= 1:
        return f"{told}, but a loss is at least 0 and an accuracy from 0 to 1"
    return None


def _fault_of_array(name: str, array: Array, sent: Array) -> str | None:
    file = BytesIO(array.data)
    try:
        # The header first: numpy would also read archives and pickles, and make room for whatever
        # size a header claims.
        if read_magic(file) != (1, 0):
            return f"its weight '{name}' is not in version 1.0 of numpy's format"
        shape, _, dtype = read_array_header_1_0(file)
        told = array.dtype if str(dtype) == stored_dtype(array.dtype) else str(dtype)
        if shape != tuple(sent.shape) or told != sent.dtype:
            return shorten(
                f"its weight '{name}' is {told} {list(shape)}, not {sent.dtype} {list(sent.shape)}"
            )
        values = to_tensor(array)
    except Exception as error:  # what a hostile file makes numpy raise is open-ended
        return shorten(f"its weight '{name}' cannot be read ({error!r})")
    if not torch.isfinite(values).all():
        return f"its weight '{name}' has NaN or infinity in it; lower learning-rate"
    return None
