from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from numpy.lib.format import write_array_header_1_0
from torch import Tensor

from fedsplit.flower_internals import record_bytes
from strategies.replies import (
    fault_of_train_reply,
    in_order_of,
    log_failures,
    measurements_of,
    reason_of,
    sort_replies,
    with_dtypes_of,
)
from strategies.seen import Seen
from tests.strategies.grids import fails

SENT: dict[str, Tensor] = {"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.int64)}
GOOD = {"num-examples": 8, "loss": 0.5, "accuracy": 0.25, "channel-seconds": 0.125}


def _asked(node: int = 1) -> Message:
    return Message(RecordDict(), node, "train")


def _reply(
    weights: dict[str, Tensor] | None = None, node: int = 1, **metrics: int | float | None
) -> Message:
    named = {**GOOD, **{key.replace("_", "-"): value for key, value in metrics.items()}}
    content = RecordDict(
        {
            "arrays": ArrayRecord(SENT if weights is None else weights),
            "metrics": MetricRecord({k: v for k, v in named.items() if v is not None}),
        }
    )
    return Message(content, reply_to=_asked(node))


def _fault(reply: Message, seen: int | None = 8) -> str | None:
    known = Seen(10**6) if seen is None else Seen(10**6, counted=seen)
    return fault_of_train_reply(reply, known, sent=ArrayRecord(SENT))


def test_a_good_reply_has_no_fault() -> None:
    assert _fault(_reply()) is None
    assert _fault(_reply(), seen=None) is None
    assert measurements_of(_reply()).num_examples == 8


@pytest.mark.parametrize(
    ("weights", "fault"),
    [
        ({"a": torch.zeros(2, 3)}, r"named \['a'\], not \['a', 'b'\]"),
        ({**SENT, "c": torch.zeros(1)}, r"named \['a', 'b', 'c'\]"),
        ({**SENT, "a": torch.zeros(3, 2)}, r"'a' is float32 \[3, 2\], not float32 \[2, 3\]"),
        ({**SENT, "a": torch.zeros(2, 3).double()}, "'a' is float64"),
        ({**SENT, "a": torch.full((2, 3), float("nan"))}, "'a' has NaN or infinity"),
        ({**SENT, "a": torch.full((2, 3), float("-inf"))}, "'a' has NaN or infinity"),
    ],
)
def test_wrong_weights(weights: dict[str, Tensor], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        raise ValueError(_fault(_reply(weights)))


@pytest.mark.parametrize(
    ("metrics", "fault"),
    [
        ({"num_examples": 9}, "claims 9 examples where the split server saw 8"),
        ({"num_examples": 0}, "claims 0 examples where the split server saw 8"),
        ({"num_examples": -1}, "num-examples = -1"),
        ({"num_examples": 8.0}, "num-examples = 8.0"),
        ({"loss": float("nan")}, "not finite numbers"),
        ({"accuracy": float("inf")}, "not finite numbers"),
        ({"loss": 1}, "not finite numbers"),
        ({"loss": -0.5}, "a loss is at least 0"),
        ({"accuracy": 1e300}, "an accuracy from 0 to 1"),
        ({"accuracy": -0.1}, "an accuracy from 0 to 1"),
        ({"loss": None}, r"metrics are \['accuracy', 'channel-seconds', 'num-examples'\]"),
        ({"channel_seconds": None}, r"metrics are \['accuracy', 'loss', 'num-examples'\]"),
        ({"channel_seconds": -0.5}, r"channel-seconds = -0\.5, not a finite number"),
        ({"channel_seconds": float("nan")}, "channel-seconds = nan, not a finite number"),
        ({"channel_seconds": 3}, "channel-seconds = 3, not a finite number"),
        ({"extra": 1.0}, "'extra'"),
    ],
)
def test_wrong_metrics(metrics: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        raise ValueError(_fault(_reply(**metrics)))


@pytest.mark.parametrize("seen", [None, 0])
def test_a_train_reply_needs_examples(seen: int | None) -> None:
    assert _fault(_reply(num_examples=0), seen) == "its reply says that it trained on no examples"


def test_wrong_records() -> None:
    for name in ("arrays", "metrics"):
        reply = _reply()
        del reply.content[name]
        assert "records" in str(_fault(reply))
    reply = _reply()
    reply.content["arrays"] = MetricRecord({"x": 1})
    assert "records" in str(_fault(reply))
    reply = _reply()
    reply.content["metrics"] = ArrayRecord(SENT)
    assert _fault(reply) == "its reply holds no 'metrics'"


def _file(shape: tuple[int, ...], data: bytes, descr: str = "<f4") -> bytes:
    file = io.BytesIO()
    write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def _archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros((2, 3), dtype=np.float32))
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array",
        _archive(),
        b"PK\x03\x04junk",
        pickle.dumps([1]),
        _file((2**40,), b""),
        _file((2, 3), b"\0" * 23),
        _file((2, 3), b"\0" * 24, descr="|O"),
        b"\x93NUMPY\x01\0\x0a\0{'descr' (\n",
        b"\x93NUMPY\x03\0" + _file((2, 3), b"\0" * 24)[8:],
    ],
    ids=range(10),
)
def test_a_weight_that_is_no_such_array(data: bytes) -> None:
    reply = _reply()
    arrays = reply.content.array_records["arrays"]
    arrays["a"] = Array("float32", (2, 3), "numpy.ndarray", data)
    assert str(_fault(reply)).startswith("its weight 'a' ")


def test_a_fault_is_short_whatever_the_sender_calls_its_weights() -> None:
    assert len(str(_fault(_reply({"x" * 100_000: torch.zeros(1)})))) < 1100


def test_weights_are_put_in_the_order_in_which_they_were_sent() -> None:
    backwards = ArrayRecord(dict(reversed(SENT.items())))
    assert list(backwards) == ["b", "a"]
    ordered = in_order_of(backwards, ArrayRecord(SENT))
    assert list(ordered) == ["a", "b"]
    assert ordered["a"].numpy().shape == (2, 3)


def test_replies_are_sorted_by_partition() -> None:
    participants = {2: 12, 0: 30, 5: 11, 7: 40}
    replies = [_reply(node=11), fails("broken")(_asked(40)), _reply(node=99), _reply(node=30)]
    good, failures = sort_replies(replies, participants)

    assert list(good) == [0, 5]  # whatever the order of arrival or the node ids
    assert failures == {2: "no reply within round-timeout", 7: "broken"}


def test_a_reason_is_one_line_whatever_the_engine_hands_on() -> None:
    traceback = "\x1b[36mray::Actor\x1b[39m (pid=1)\n  File 'a.py'\n\x07the disk is broken"
    assert reason_of(Error(2, traceback)) == "ray::Actor (pid=1) File 'a.py' the disk is broken"
    assert reason_of(Error(8)) == "error 8"
    died = (
        "<class 'ray.exceptions.ActorDiedError'>:<'The actor died before it was done. class_name: "
    )
    assert reason_of(Error(0, died)) == "ActorDiedError: The actor died before it was done"
    assert len(reason_of(Error(2, "x" * 100_000))) < 2_000


def test_clients_that_failed_alike_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Break it: log each of them."""
    log_failures({1: "b", **dict.fromkeys(range(3, 15), "a")}, "round 3")
    assert [record.getMessage() for record in caplog.records] == [
        "Client 1 is left out of round 3: b",
        "Clients 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 2 more are left out of round 3: a",
    ]


def test_a_second_reply_is_no_second_client() -> None:
    good, failures = sort_replies([_reply(node=3), _reply(node=3)], {1: 3})
    assert (list(good), failures) == ([1], {})


def test_bytes_of_weights_are_exact() -> None:
    small, large = ArrayRecord({"a": torch.zeros(10)}), ArrayRecord({"a": torch.zeros(1010)})
    assert record_bytes(large) - record_bytes(small) in range(4000, 4010)  # and digits of lengths
    assert record_bytes(ArrayRecord({"a": torch.ones(10)})) == record_bytes(small)


def test_aggregated_weights_get_their_dtypes_back() -> None:
    aggregated = ArrayRecord({"a": torch.full((2, 3), 0.1).double(), "b": SENT["b"]})
    back = with_dtypes_of(aggregated, ArrayRecord(SENT)).to_torch_state_dict()
    assert {name: t.dtype for name, t in back.items()} == {
        "a": torch.float32,
        "b": torch.int64,
    }
    assert torch.equal(back["a"], torch.full((2, 3), 0.1))
