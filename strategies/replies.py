"""Check which replies of a round count: what arrives is untrusted until it is checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from io import BytesIO
from logging import WARNING

import torch
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord
from flwr.common import log
from numpy.lib.format import read_magic

from fedsplit.arrays import in_dtype, read_header, stored_dtype, to_compute, to_tensor
from fedsplit.errors import shorten
from fedsplit.flower_internals import mean_of_metrics as _mean_of_metrics
from fedsplit.messages import ARRAYS, METRICS, NUM_EXAMPLES, Measurements
from fedsplit.names import some
from strategies.seen import Seen

NO_REPLY = "no reply within round-timeout"
_RAISED = re.compile(r"<class '(?:\w+\.)*(\w+)'>:<'([^.]*)")
"""How Flower's simulation reports an exception of Ray; the rest are Ray's ids and addresses."""
_CONTROL = re.compile(r"\x1b\[[\d;]*m|[\x00-\x1f\x7f]")


def reason_of(error: Error) -> str:
    """Return why a client failed, as one line: an engine may pass on a coloured traceback."""
    text = _CONTROL.sub(" ", error.reason or f"error {error.code}")
    if raised := _RAISED.match(text):
        text = f"{raised[1]}: {raised[2]}"
    return shorten(" ".join(text.split()))


def by_reason(failures: Mapping[int, str]) -> dict[str, list[str]]:
    """Return reason -> those that failed for it, in the order of `failures`."""
    found: dict[str, list[str]] = {}
    for failed, reason in failures.items():
        found.setdefault(reason, []).append(str(failed))
    return found


def log_failures(failures: Mapping[int, str], what: str) -> None:
    """Log which clients are left out of something, and why: those that failed alike in one line.

    Parameters
    ----------
    failures : Mapping[int, str]
        Partition id -> reason.
    what : str
        What they are left out of, such as "round 3".
    """
    for reason, found in by_reason(dict(sorted(failures.items()))).items():
        who = f"Client {found[0]} is" if len(found) == 1 else f"Clients {some(found, 10)} are"
        log(WARNING, "%s left out of %s: %s", who, what, reason)


def sort_replies(
    replies: Iterable[Message], participants: Mapping[int, int]
) -> tuple[dict[int, Message], dict[int, str]]:
    """Sort a round's replies by participant.

    Parameters
    ----------
    replies : Iterable[Message]
        In order of arrival.
    participants : Mapping[int, int]
        Partition id -> node id of all clients that were sent a message.

    Returns
    -------
    tuple[dict[int, Message], dict[int, str]]
        Good replies by partition id in ascending order, and why each other one is missing.
    """
    partition_of = {node: partition for partition, node in participants.items()}
    good: dict[int, Message] = {}
    failures = dict.fromkeys(participants, NO_REPLY)
    for reply in replies:
        partition = partition_of.get(reply.metadata.src_node_id)
        if partition is None:
            continue  # it was sent no message
        if reply.has_error():
            failures[partition] = reason_of(reply.error)
        else:
            good[partition] = reply
            failures.pop(partition, None)
    return dict(sorted(good.items())), failures


def fault_of_train_reply(
    reply: Message,
    seen: Seen,
    *,
    sent: ArrayRecord,
    metrics: Sequence[str] = (),
) -> str | None:
    """Return what is wrong with a reply to a train message, or None.

    Parameters
    ----------
    reply : Message
        A reply that is not an error reply.
    seen : Seen
        What is known of the client's work.
    sent : ArrayRecord
        The weights the client was given; it must return the same names, shapes and dtypes. If
        clients have none to train, its reply must have no record of weights.
    metrics : Sequence[str]
        Keys of the client rule's own metrics, all of which are required.
    """
    records = [ARRAYS, METRICS] if sent else [METRICS]
    if sorted(reply.content) != records or (sent and not reply.content.array_records):
        named = " and ".join(f"'{record}'" for record in records)
        return f"its reply holds the records {sorted(reply.content)}, not {named}"
    fault = fault_of_metrics(reply, seen, metrics)
    if fault is not None:
        return fault
    if measurements_of(reply, metrics).num_examples < 1:
        return "its reply says that it trained on no examples"
    arrays = weights_of(reply)
    if set(arrays) != set(sent):
        return shorten(f"its weights are named {sorted(arrays)}, not {sorted(sent)}")
    return next(
        (fault for name in sent if (fault := _fault_of_array(name, arrays[name], sent[name]))), None
    )


def fault_of_metrics(reply: Message, seen: Seen, metrics: Sequence[str] = ()) -> str | None:
    """Return what is wrong with the metrics of a reply, or None (see `fault_of_train_reply`)."""
    if list(reply.content.metric_records) != [METRICS]:
        return "its reply holds no 'metrics'"
    try:
        told = measurements_of(reply, metrics)
    except ValueError as error:
        return shorten(error)
    return seen.fault_of(told)


def measurements_of(reply: Message, metrics: Sequence[str] = ()) -> Measurements:
    """Return what a reply has measured.

    Raises
    ------
    ValueError
        If it is invalid.
    """
    return Measurements.from_record(reply.content.metric_records[METRICS], metrics)


def mean_of_metrics(replies: Sequence[Message]) -> MetricRecord:
    """Return the mean of loss and accuracy of checked replies, weighted by examples."""
    return _mean_of_metrics([reply.content for reply in replies], NUM_EXAMPLES)


def keep_for_aggregator(
    reply: Message, measured: Measurements, buffers: Collection[str], *, doubled: bool = False
) -> None:
    """Reduce a checked reply to what an aggregator combines: parameters and the common metrics.

    Parameters
    ----------
    reply : Message
        The reply.
    measured : Measurements
        What it has measured.
    buffers : Collection[str]
        What the aggregator does not combine.
    doubled : bool
        Whether the aggregator computes in double precision.
    """
    arrays = to_compute(without(weights_of(reply), buffers))
    if doubled:
        arrays = ArrayRecord({name: in_dtype(array, "float64") for name, array in arrays.items()})
    reply.content[ARRAYS] = arrays
    reply.content[METRICS] = measured.model_copy(update={"metrics": {}}).to_record()


def without(arrays: ArrayRecord, names: Collection[str]) -> ArrayRecord:
    """Return a record without the arrays of these names."""
    if not any(name in names for name in arrays):
        return arrays
    return ArrayRecord({name: array for name, array in arrays.items() if name not in names})


def in_order_of(arrays: ArrayRecord, sent: ArrayRecord) -> ArrayRecord:
    """Return checked weights in the order in which clients were sent them.

    A sender chooses its order, and some of Flower's aggregators combine by position.
    """
    return ArrayRecord({name: arrays[name] for name in sent})


def with_dtypes_of(arrays: ArrayRecord, sent: ArrayRecord) -> ArrayRecord:
    """Return aggregated weights in the dtypes that clients were sent.

    Some of Flower's aggregators (such as FedAdam) return float64 for float32, and 16-bit weights
    are aggregated in float32.
    """
    return ArrayRecord({name: in_dtype(array, sent[name].dtype) for name, array in arrays.items()})


def weights_of(reply: Message) -> ArrayRecord:
    """Return the weights of a reply; none if it has no record of them."""
    return reply.content.array_records.get(ARRAYS, ArrayRecord())


def _fault_of_array(name: str, array: Array, sent: Array) -> str | None:
    file = BytesIO(array.data)
    try:
        # The header first: numpy would also read archives and pickles, and allocate whatever size
        # a header claims.
        if read_magic(file) != (1, 0):
            return f"its weight '{name}' is not in version 1.0 of numpy's format"
        shape, dtype = read_header(file)
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
