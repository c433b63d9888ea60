"""The tensors of one kind of frame: their names, their order and their B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsplit.boundary import Boundary, TensorSpec, by_name
from fedsplit.channel.codec import decode, encode
from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError, ConfigError
from fedsplit.split.codecs import IDENTITY, Identity, Packed
from fedsplit.split.payload import Content, Payload
from tests.split.toy_codecs import Flat, Int8

FLOAT = TensorSpec((1, 3), torch.float32)
MIXED = Boundary({"z": FLOAT, "count": TensorSpec((1,), torch.int64), "a": FLOAT})
LABELS = {"labels": TensorSpec((1,), torch.int64)}
SCORES = {"loss": TensorSpec((), torch.float32), "hits": TensorSpec((), torch.int64)}
CPU = torch.device("cpu")


def never() -> torch.Generator:
    raise AssertionError("nothing is drawn")


def state_of(batch_size: int) -> dict[str, Tensor]:
    return {
        "z": torch.arange(3.0 * batch_size).reshape(batch_size, 3),
        "count": torch.arange(batch_size),
        "a": -torch.arange(3.0 * batch_size).reshape(batch_size, 3),
    }


def unpacked(payload: Payload, frame: Frame, *, batch_size: int | None = None) -> Content:
    return payload.unpack(frame, device=CPU, max_batch_size=4, batch_size=batch_size)


def test_a_bare_tensor_is_called_hidden_and_comes_back_bare() -> None:
    payload = Payload("cut.", Boundary({"hidden": FLOAT}, bare=True), IDENTITY)
    hidden = torch.ones(2, 3)
    frame = payload.pack(Kind.SMASHED_DATA, 1, hidden, {}, never)
    assert list(frame.tensors) == ["cut.hidden"]
    assert payload.names == {"cut.hidden"}
    found = unpacked(payload, frame)
    assert isinstance(found.state, Tensor)
    assert torch.equal(found.state, hidden)
    assert (found.batch_size, dict(found.scores)) == (2, {})


def test_a_dict_of_one_stays_a_dict() -> None:
    """Break it: unpack every lone tensor called "hidden" as a bare one."""
    payload = Payload("cut.", Boundary({"hidden": FLOAT}), IDENTITY)
    frame = payload.pack(Kind.SMASHED_DATA, 1, {"hidden": torch.ones(2, 3)}, {}, never)
    state = unpacked(payload, frame).state
    assert isinstance(state, dict)
    assert list(state) == ["hidden"]


@pytest.mark.parametrize("order", ["z count a", "a count z", "count z a"])
def test_several_tensors_come_in_the_order_of_the_boundary(order: str) -> None:
    """Break it: keep the order of the frame, or that of names."""
    payload = Payload("output.", MIXED, IDENTITY)
    state = state_of(2)
    sent = payload.pack(Kind.TRUNK_OUTPUT, 0, {n: state[n] for n in order.split()}, {}, never)
    assert list(sent.tensors) == ["output.z", "output.count", "output.a"]
    mixed = Frame(sent.kind, 0, {f"output.{n}": state[n] for n in order.split()})
    for frame in (sent, mixed):
        found = by_name(unpacked(payload, frame).state)
        assert set(found) == {"z", "count", "a"}
        assert list(found) == ["z", "count", "a"]
        assert all(torch.equal(found[name], state[name]) for name in state)


def test_sent_tensors_are_detached_and_contiguous() -> None:
    """Break it: leave `contiguous` out; the arithmetic would depend on the channel."""
    payload = Payload("cut.", Boundary({"hidden": FLOAT}, bare=True), IDENTITY)
    hidden = torch.ones(3, 2, requires_grad=True).t()
    (sent,) = payload.pack(Kind.SMASHED_DATA, 0, hidden, {}, never).tensors.values()
    assert sent.is_contiguous()
    assert not sent.requires_grad
    assert hidden.requires_grad


def test_scores_travel_beside_the_tensors_without_a_prefix() -> None:
    payload = Payload("cut.", MIXED.floating, IDENTITY, SCORES)
    scores = {"loss": torch.tensor(0.5), "hits": torch.tensor(2)}
    gradient = {name: state_of(2)[name] for name in ("z", "a")}
    frame = payload.pack(Kind.CUT_GRADIENT, 0, gradient, scores, never)
    assert list(frame.tensors) == ["cut.z", "cut.a", "loss", "hits"]
    found = unpacked(payload, frame, batch_size=2)
    assert {name: tensor.item() for name, tensor in found.scores.items()} == {
        "loss": 0.5,
        "hits": 2,
    }
    assert list(by_name(found.state)) == ["z", "a"]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"loss": torch.ones(1), "hits": torch.tensor(1)}, r"'loss' as torch.float32 \[1\]"),
        ({"loss": torch.tensor(1.0), "hits": torch.tensor(1.0)}, "'hits' as torch.float32"),
        ({"loss": torch.tensor(torch.nan), "hits": torch.tensor(1)}, "infinity in 'loss'"),
        ({"loss": torch.tensor(1.0)}, "holds the tensors"),
    ],
)
def test_wrong_scores_are_refused(scores: dict[str, Tensor], words: str) -> None:
    payload = Payload("cut.", Boundary({}), IDENTITY, SCORES)
    with pytest.raises(ChannelError, match=words):
        unpacked(payload, Frame(Kind.EVALUATION, 0, scores), batch_size=2)


def test_labels_tell_the_batch_size_before_any_other_tensor_does() -> None:
    """Break it: read B off the first tensor; the message would name the wrong fault."""
    payload = Payload("cut.", Boundary({"hidden": FLOAT}, bare=True), IDENTITY, LABELS)
    tensors = {"cut.hidden": torch.ones(3, 3), "labels": torch.zeros(2).long()}
    words = r"'cut.hidden' as torch.float32 \[3, 3\], not torch.float32 \[2, 3\]"
    with pytest.raises(ChannelError, match=words):
        unpacked(payload, Frame(Kind.SMASHED_DATA, 0, tensors))
    tensors["labels"] = torch.zeros(2, 1).long()
    with pytest.raises(
        ChannelError, match=r"labels of torch.int64 \[2, 1\], not torch.int64 \[B\]"
    ):
        unpacked(payload, Frame(Kind.SMASHED_DATA, 0, tensors))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rows_of_packed_examples_are_counted(size: int) -> None:
    """Break it: take the length of a tensor for B; here an example has 17 rows."""
    tokens = Boundary({"tokens": TensorSpec((17, 2), torch.float32)})
    payload = Payload("cut.", tokens, IDENTITY)
    frame = payload.pack(Kind.SMASHED_DATA, 0, {"tokens": torch.ones(17 * size, 2)}, {}, never)
    assert unpacked(payload, frame).batch_size == size
    for rows in (17 * size - 1, 17 * size + 1):
        with pytest.raises(ChannelError, match="SMASHED_DATA frame of step 0 has"):
            unpacked(payload, Frame(frame.kind, 0, {"cut.tokens": torch.ones(rows, 2)}))


@pytest.mark.parametrize("codec", [IDENTITY, Int8(), Flat()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("size", [1, 3])
def test_the_frame_of_a_batch_is_known_before_there_is_one(codec: object, size: int) -> None:
    payload = Payload("cut.", MIXED, codec, LABELS)  # type: ignore[arg-type]
    scores = {"labels": torch.zeros(size).long()}
    sent = payload.pack(Kind.SMASHED_DATA, 0, state_of(size), scores, torch.Generator)
    known = payload.frame(Kind.SMASHED_DATA, size)
    assert all(tensor.is_meta for tensor in known.tensors.values())
    assert [(name, t.shape, t.dtype) for name, t in known.tensors.items()] == [
        (name, t.shape, t.dtype) for name, t in sent.tensors.items()
    ]
    assert payload.names == set(sent.tensors)


def test_no_codec_is_asked_where_no_tensor_is_of_floats() -> None:
    """Break it: call the codec with nothing; it has no length to tell B by."""
    integers = Boundary({"count": TensorSpec((1,), torch.int64)})
    payload = Payload("cut.", integers, Flat())
    frame = payload.pack(Kind.SMASHED_DATA, 0, {"count": torch.arange(2)}, {}, never)
    assert list(frame.tensors) == ["cut.count"]
    found = unpacked(payload, frame)
    assert found.batch_size == 2
    assert torch.equal(by_name(found.state)["count"], torch.arange(2))


def test_integers_that_the_image_size_fixes_stay_where_modules_read_them() -> None:
    """Break it: move every tensor to the device; a GPU would stall to read them back."""
    size = TensorSpec((1, 2), torch.int64, (8, 8))
    boundary = Boundary({"hidden": FLOAT, "size": size, "place": TensorSpec((1,), torch.int64)})
    payload = Payload("cut.", boundary, IDENTITY)
    state = {
        "hidden": torch.ones(2, 3),
        "size": torch.full((2, 2), 8),
        "place": torch.arange(2),
    }
    frame = payload.pack(Kind.SMASHED_DATA, 0, state, {}, never)
    found = payload.unpack(frame, device=torch.device("meta"), max_batch_size=4, batch_size=2)
    moved = {name: tensor.is_meta for name, tensor in by_name(found.state).items()}
    assert moved == {"hidden": True, "size": False, "place": True}
    assert list(moved) == ["hidden", "size", "place"]


class Clashing(Flat):
    """Calls its tensor as the boundary calls its integers."""

    def packed(self, tensors: Mapping[str, TensorSpec], batch_size: int) -> dict[str, Packed]:
        return {"count": Packed(torch.Size([batch_size]), torch.float32)}


def test_a_codec_cannot_name_a_tensor_as_one_that_it_does_not_encode() -> None:
    """Break it: let the codec's replace it; the server then computes with other integers."""
    with pytest.raises(ConfigError, match=r"Clashing names a tensor 'count'.*another name"):
        Payload("cut.", MIXED, Clashing())


def test_a_frame_of_more_tensors_than_a_receiver_reads_is_refused_before_the_run() -> None:
    """Break it: leave the check out; every frame of the run would be refused."""
    for names in (
        [f"t{number}" for number in range(257)],
        [f"{'long' * 200}{n}" for n in range(80)],
    ):
        with pytest.raises(ConfigError, match=r"at most 256 and 65536.*join some of them"):
            Payload("cut.", Boundary(dict.fromkeys(names, FLOAT)), IDENTITY)


def test_a_frame_of_as_many_tensors_as_allowed_arrives() -> None:
    names = [f"t{number}" for number in range(256)]
    payload = Payload("cut.", Boundary(dict.fromkeys(names, FLOAT)), IDENTITY)
    state = {name: torch.ones(4, 3) for name in names}
    sent = encode(payload.pack(Kind.SMASHED_DATA, 0, state, {}, never))
    assert unpacked(payload, decode(sent)).batch_size == 4


HIDDEN = Boundary({"hidden": FLOAT}, bare=True)


class _Returning(Identity):
    """Returns from one method what the test asks for."""

    def __init__(self, method: str, made: object) -> None:
        setattr(self, method, lambda *arguments: made)


@pytest.mark.parametrize("made", [None, [1], {"hidden": None}, {"hidden": ([2, 3], "float32")}])
def test_what_packed_returns_is_checked(made: object) -> None:
    """Break it: use what a codec returns as it is."""
    with pytest.raises(ConfigError, match=r"_Returning\.packed has returned .*Packed\(shape, dty"):
        Payload("cut.", HIDDEN, _Returning("packed", made))


def test_a_packed_shape_is_any_sequence() -> None:
    """Break it: compare a list with the shape of a tensor."""

    class Listing(Identity):
        def packed(self, tensors: Mapping[str, TensorSpec], batch_size: int) -> dict[str, Any]:
            found = super().packed(tensors, batch_size)
            return {name: (list(shape), dtype) for name, (shape, dtype) in found.items()}

    payload = Payload("cut.", HIDDEN, Listing())
    frame = payload.pack(Kind.SMASHED_DATA, 0, torch.ones(3, 3), {}, never)
    assert unpacked(payload, frame).batch_size == 3


def test_what_encode_and_decode_return_is_checked() -> None:
    """Break it: use what a codec returns as it is."""
    encodes = Payload("cut.", HIDDEN, _Returning("encode", None))
    with pytest.raises(ConfigError, match=r"_Returning\.encode has returned None\. Return a dict"):
        encodes.pack(Kind.SMASHED_DATA, 0, torch.ones(2, 3), {}, never)
    decodes = Payload("cut.", HIDDEN, _Returning("decode", [1]))
    frame = decodes.pack(Kind.SMASHED_DATA, 0, torch.ones(2, 3), {}, never)
    with pytest.raises(ChannelError, match=r"_Returning\.decode has returned \[1\]"):
        unpacked(decodes, frame)
