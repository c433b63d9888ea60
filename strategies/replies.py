"""Which replies of a round count: what comes off the wire is hostile until checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedsplit.errors import shorten

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
        The weights the client was given; it must return the same names, shapes and dtypes.
    num_examples : int | None
        Examples the split server counted for this client; None if it has no part in the round.
    """
    if sorted(reply.content) != ["arrays", "metrics"] or not reply.content.array_records:
        return f"its reply holds the records {sorted(reply.content)}, not 'arrays' and 'metrics'"
    fault = fault_of_metrics(reply, num_examples=num_examples)
    if fault is not None:
        return fault
    if num_examples_of(reply) < 1:
        return "its reply says that it trained on no examples"
    arrays = reply.content.array_records["arrays"]
    if set(arrays) != set(sent):
        return f"its weights are named {sorted(arrays)}, not {sorted(sent)}"
    return next(
        (fault for name in sent if (fault := _fault_of_array(name, arrays[name], sent[name]))), None
    )


def fault_of_metrics(reply: Message, *, num_examples: int | None) -> str | None:
    """Return what is wrong with the metrics of a reply, or None (see `fault_of_train_reply`)."""
    if list(reply.content.metric_records) != ["metrics"]:
        return "its reply holds no 'metrics'"
    metrics = reply.content.metric_records["metrics"]
    if set(metrics) != {"num-examples", "loss", "accuracy"}:
        return f"its metrics are {sorted(metrics)}, not num-examples, loss and accuracy"
    count = metrics["num-examples"]
    if not isinstance(count, int) or count < 0:
        return f"its reply has num-examples = {count!r}, not a whole number"
    if num_examples is not None and count != num_examples:
        return f"it claims {count} examples where the split server saw {num_examples}"
    scores = metrics["loss"], metrics["accuracy"]
    if not all(isinstance(score, float) and math.isfinite(score) for score in scores):
        return f"its loss and accuracy are {scores}, not finite numbers; lower learning-rate"
    return None


def with_dtypes_of(arrays: ArrayRecord, sent: ArrayRecord) -> ArrayRecord:
    """Return aggregated weights in the dtypes that clients were sent.

    Some of Flower's aggregators (FedAdam and its kin) give float64 for float32.
    """
    return ArrayRecord(
        {
            name: array
            if array.dtype == sent[name].dtype
            else Array(array.numpy().astype(sent[name].dtype))
            for name, array in arrays.items()
        }
    )


def num_examples_of(reply: Message) -> int:
    """Return the examples of a reply whose metrics have been checked."""
    count = reply.content.metric_records["metrics"]["num-examples"]
    assert isinstance(count, int)
    return count


def _fault_of_array(name: str, array: Array, sent: Array) -> str | None:
    try:
        values = array.numpy()
    except (ValueError, TypeError, OSError, EOFError) as error:
        return f"its weight '{name}' cannot be read ({error})"
    if values.shape != tuple(sent.shape) or str(values.dtype) != sent.dtype:
        return (
            f"its weight '{name}' is {values.dtype} {list(values.shape)}, "
            f"not {sent.dtype} {list(sent.shape)}"
        )
    if not np.isfinite(values).all():
        return f"its weight '{name}' has NaN or infinity in it; lower learning-rate"
    return None
