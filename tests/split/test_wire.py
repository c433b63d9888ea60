"""The legal frames of a step; what a codec changes about them is in test_codecs.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedsplit.boundary import Boundary, State, TensorSpec, by_name
from fedsplit.channel.codec import decode, encode, encoded_length
from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.wire import CUT_PREFIX, LABELS, LOSS, NUM_CORRECT, Wire
from tests.split.toys import wire_of

HIDDEN = TensorSpec((1, 3, 4), torch.float32)
PLACE = TensorSpec((1, 2), torch.int64)
WIRE = wire_of({"hidden": HIDDEN, "place": PLACE}, num_labels=5, max_batch_size=6)


def good_tensors(batch_size: int = 2) -> dict[str, Tensor]:
    return {
        "cut.hidden": torch.zeros(batch_size, 3, 4),
        "cut.place": torch.zeros(batch_size, 2, dtype=torch.int64),
        "labels": torch.arange(batch_size) % 5,
    }


def with_value(value: float) -> Tensor:
    tensor = torch.zeros(2, 3, 4)
    tensor[1, 2, 3] = value
    return tensor


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_a_legal_frame_passes(batch_size: int) -> None:
    tensors = good_tensors(batch_size)
    content = WIRE.unpack(Frame(Kind.SMASHED_DATA, 0, tensors))
    assert content.batch_size == batch_size
    assert isinstance(content.state, dict)
    assert list(content.state) == ["hidden", "place"]
    assert torch.equal(content.state["hidden"], tensors["cut.hidden"])
    assert torch.equal(content.scores[LABELS], tensors["labels"])


Change = Callable[[dict[str, Tensor]], object]
BAD: dict[str, tuple[Change, str]] = {
    "missing": (
        lambda t: t.pop("cut.place"),
        r"holds the tensors \['cut.hidden', 'labels'\], not \['cut.hidden', 'cut.place', 'labels'",
    ),
    "no labels": (lambda t: t.pop("labels"), "holds the tensors"),
    "extra": (lambda t: t.update({"cut.more": torch.zeros(2)}), "'cut.more'"),
    "misnamed": (lambda t: t.update({"hidden": t.pop("cut.hidden")}), "'hidden'"),
    "width": (
        lambda t: t.update({"cut.hidden": torch.zeros(2, 3, 5)}),
        r"'cut.hidden' as torch.float32 \[2, 3, 5\], not torch.float32 \[2, 3, 4\]",
    ),
    "no batch axis": (lambda t: t.update({"cut.hidden": torch.zeros(3, 4)}), r"as .* \[3, 4\]"),
    "transposed": (lambda t: t.update({"cut.hidden": torch.zeros(2, 4, 3)}), r"\[2, 4, 3\]"),
    "dtype": (
        lambda t: t.update({"cut.hidden": t["cut.hidden"].double()}),
        r"torch.float64 \[2, 3, 4\], not torch.float32",
    ),
    "int dtype": (lambda t: t.update({"cut.place": t["cut.place"].int()}), "torch.int32"),
    "NaN": (
        lambda t: t.update({"cut.hidden": with_value(float("nan"))}),
        "NaN or infinity in 'cut.hidden'; lower learning-rate",
    ),
    "inf": (lambda t: t.update({"cut.hidden": with_value(float("inf"))}), "NaN or infinity"),
    "-inf": (lambda t: t.update({"cut.hidden": with_value(-float("inf"))}), "NaN or infinity"),
    "label high": (
        lambda t: t.update({"labels": torch.tensor([0, 5])}),
        "labels from 0 to 5, not 0 to 4",
    ),
    "label low": (
        lambda t: t.update({"labels": torch.tensor([-1, 4])}),
        "labels from -1 to 4, not 0 to 4",
    ),
    "ignored label": (lambda t: t.update({"labels": torch.tensor([-100, 0])}), "-100"),
    "label dtype": (
        lambda t: t.update({"labels": torch.tensor([0, 1], dtype=torch.int32)}),
        r"labels of torch.int32 \[2\], not torch.int64 \[B\]",
    ),
    "float labels": (lambda t: t.update({"labels": torch.zeros(2)}), "labels of torch.float32"),
    "label shape": (
        lambda t: t.update({"labels": torch.zeros(2, 1, dtype=torch.int64)}),
        r"labels of torch.int64 \[2, 1\]",
    ),
    "one label": (lambda t: t.update({"labels": torch.tensor(1)}), r"torch.int64 \[\]"),
    "too few labels": (
        lambda t: t.update({"labels": torch.tensor([1])}),
        r"\[2, 3, 4\], not torch.float32 \[1, 3, 4\]",
    ),
    "too many labels": (lambda t: t.update({"labels": torch.tensor([1, 1, 1])}), r"\[3, 3, 4\]"),
    "no examples": (
        lambda t: t.update(good_tensors(0)),
        "has 0 examples, not 1 to 6",
    ),
    "too many": (
        lambda t: t.update(good_tensors(7)),
        "has 7 examples, not 1 to 6",
    ),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
def test_any_other_frame_is_refused(change: Change, words: str) -> None:
    tensors = good_tensors()
    change(tensors)
    with pytest.raises(ChannelError, match=words) as refusal:
        WIRE.unpack(Frame(Kind.SMASHED_DATA, 3, tensors))
    assert str(refusal.value).startswith("Refused: the SMASHED_DATA frame of step 3 ")


def test_a_refusal_of_very_many_names_is_short() -> None:
    tensors = {f"cut.{number}" * 10: torch.zeros(0) for number in range(1000)}
    with pytest.raises(ChannelError, match="holds the tensors") as refusal:
        WIRE.unpack(Frame(Kind.SMASHED_DATA, 0, tensors))
    assert len(str(refusal.value)) < 1200


@given(
    shape=st.lists(st.integers(1, 8), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64]),
    max_batch_size=st.integers(1, 64),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_no_legal_frame_is_longer_than_the_limit(
    shape: list[int], dtype: torch.dtype, max_batch_size: int, data: st.DataObject
) -> None:
    wire = wire_of({"hidden": TensorSpec((1, *shape), dtype)}, 10, max_batch_size)

    def lengths(batch_size: int) -> tuple[int, int]:
        name = CUT_PREFIX + "hidden"
        hidden = {name: torch.zeros((batch_size, *shape), dtype=dtype)}
        gradient = hidden if dtype.is_floating_point else {}
        labels = torch.zeros(batch_size, dtype=torch.int64)
        scores = {LOSS: torch.zeros(()), NUM_CORRECT: torch.tensor(0)}
        return (
            len(encode(Frame(Kind.SMASHED_DATA, 2**31, {**hidden, LABELS: labels}))),
            len(encode(Frame(Kind.CUT_GRADIENT, 2**31, {**gradient, **scores}))),
        )

    # The limit is no larger than it has to be.
    assert max(lengths(max_batch_size)) == wire.max_frame_bytes
    assert max(lengths(data.draw(st.integers(1, max_batch_size)))) <= wire.max_frame_bytes


def test_the_answer_to_one_example_fits() -> None:
    """It is longer than the question: loss and number of correct predictions exceed one label."""
    wire = wire_of({"hidden": TensorSpec((1, 4), torch.float32)}, 3, 1)
    scores = {LOSS: torch.zeros(()), NUM_CORRECT: torch.tensor(0)}
    answer = Frame(Kind.CUT_GRADIENT, 0, {"cut.hidden": torch.zeros(1, 4), **scores})
    assert len(encode(answer)) == wire.max_frame_bytes


def test_integers_that_the_image_size_fixes_must_be_those() -> None:
    """Break it: check the shape only; a grid of a million patches then makes the server compute."""
    size = TensorSpec((1, 2), torch.int64, (8, 8))
    packed = TensorSpec((4, 3), torch.float32)
    wire = wire_of({"hidden": packed, "size": size}, 5, 8)
    tensors = {
        "cut.hidden": torch.zeros(12, 3),
        "cut.size": torch.full((3, 2), 8),
        "labels": torch.zeros(3, dtype=torch.int64),
    }
    assert wire.unpack(Frame(Kind.SMASHED_DATA, 0, tensors)).batch_size == 3
    unlabelled = {name: tensor for name, tensor in tensors.items() if name != "labels"}
    u_shaped = wire_of({"hidden": packed, "size": size}, 5, 8, output={"hidden": packed})
    assert u_shaped.unpack(Frame(Kind.SMASHED_DATA, 0, unlabelled)).batch_size == 3

    tensors["cut.size"][1, 0] = 10**6
    with pytest.raises(ChannelError, match=r"values in 'cut\.size' other than \[8, 8\]"):
        wire.unpack(Frame(Kind.SMASHED_DATA, 0, tensors))


FLOAT4 = TensorSpec((1, 4), torch.float32)
MIXED = Boundary({"z": FLOAT4, "n": TensorSpec((1,), torch.int64), "a": FLOAT4})
VANILLA = Wire(MIXED, 5, 8)
U_SHAPED = Wire(MIXED, 5, 8, output=Boundary({"hidden": TensorSpec((1, 7), torch.float32)}))


@pytest.mark.parametrize(
    ("wire", "uplink", "downlink"),
    [
        (
            VANILLA,
            {Kind.SMASHED_DATA: ["cut.z", "cut.n", "cut.a", "labels"]},
            {Kind.CUT_GRADIENT: ["cut.z", "cut.a", "loss", "num-correct"]},
        ),
        (
            replace(VANILLA, cut_gradient=False),
            {Kind.SMASHED_DATA: ["cut.z", "cut.n", "cut.a", "labels"]},
            {Kind.CUT_GRADIENT: ["loss", "num-correct"]},
        ),
        (
            U_SHAPED,
            {
                Kind.SMASHED_DATA: ["cut.z", "cut.n", "cut.a"],
                Kind.OUTPUT_GRADIENT: ["output.hidden"],
            },
            {Kind.TRUNK_OUTPUT: ["output.hidden"], Kind.CUT_GRADIENT: ["cut.z", "cut.a"]},
        ),
        (
            replace(U_SHAPED, cut_gradient=False),
            {
                Kind.SMASHED_DATA: ["cut.z", "cut.n", "cut.a"],
                Kind.OUTPUT_GRADIENT: ["output.hidden"],
            },
            {Kind.TRUNK_OUTPUT: ["output.hidden"], Kind.CUT_GRADIENT: []},
        ),
        (
            replace(U_SHAPED, cut_gradient=False, output_gradient=False),
            {Kind.SMASHED_DATA: ["cut.z", "cut.n", "cut.a"]},
            {Kind.TRUNK_OUTPUT: ["output.hidden"]},
        ),
    ],
    ids=["vanilla", "frozen bottom", "u-shaped", "u-shaped, frozen bottom", "only the top trains"],
)
def test_the_frames_of_a_step(
    wire: Wire, uplink: Mapping[Kind, list[str]], downlink: Mapping[Kind, list[str]]
) -> None:
    """Break it: return the gradient of an integer tensor, or the labels in the U-shaped case."""
    frames = wire.step(3)
    for found, expected in ((frames.uplink, uplink), (frames.downlink, downlink)):
        assert {frame.kind: list(frame.tensors) for frame in found} == expected
        for frame in found:
            assert {len(tensor) for tensor in frame.tensors.values() if tensor.ndim} <= {3}
            assert all(tensor.is_meta for tensor in frame.tensors.values())
            assert wire.payloads[frame.kind].names == set(frame.tensors)
    assert wire.max_frame_bytes == max(
        encoded_length(frame) for frame in (*wire.step(8).uplink, *wire.step(8).downlink)
    )


def state_of(wire: Wire, kind: Kind, batch_size: int) -> State:
    """Return a state for a kind of frame, with values that depend on name and place."""
    boundary = wire.payloads[kind].boundary
    named = {}
    for number, (name, spec) in enumerate(boundary.tensors.items()):
        shape = spec.shape_for(batch_size)
        values = torch.arange(float(shape.numel())).reshape(shape) + 100 * number
        named[name] = values.to(spec.dtype)
    return boundary.to_state(named)


@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        pytest.param(wire, kind, id=f"{name}-{kind.name}")
        for name, wire, kinds in (
            ("vanilla", VANILLA, (Kind.SMASHED_DATA, Kind.CUT_GRADIENT, Kind.EVALUATION)),
            ("u-shaped", U_SHAPED, U_SHAPED.payloads),
            ("no cut gradient", replace(U_SHAPED, cut_gradient=False), (Kind.CUT_GRADIENT,)),
        )
        for kind in kinds
    ],
)
def test_a_packed_frame_unpacks_to_what_was_packed(wire: Wire, kind: Kind) -> None:
    """Break it: leave out the order of the boundary in `Payload`, or a prefix."""
    state, scores = state_of(wire, kind, 3), dict[str, Any]()
    if LABELS in wire.payloads[kind].scores:
        scores = {"labels": torch.tensor([4, 0, 2])}
    elif LOSS in wire.payloads[kind].scores:
        scores = {"loss": torch.tensor(0.5), "num_correct": torch.tensor(2)}
    frame = decode(encode(wire.pack(kind, 6, state, **scores)))
    assert (frame.kind, frame.step) == (kind, 6)
    content = wire.unpack(frame, batch_size=3)
    assert content.batch_size == 3
    assert {name.replace("-", "_") for name in content.scores} == set(scores)
    for name, tensor in scores.items():
        assert torch.equal(content.scores[name.replace("_", "-")], tensor)
    assert type(content.state) is type(state)
    assert list(by_name(content.state)) == list(by_name(state))
    for name, tensor in by_name(state).items():
        assert torch.equal(by_name(content.state)[name], tensor)
        assert by_name(content.state)[name].dtype == tensor.dtype


def test_no_upper_bound_of_labels() -> None:
    """Break it: compare with `num_labels` = 0 as with any other."""
    wire = wire_of({"hidden": FLOAT4}, num_labels=0, max_batch_size=8)
    tensors = {"cut.hidden": torch.zeros(2, 4), "labels": torch.tensor([0, 10**9])}
    assert wire.unpack(Frame(Kind.SMASHED_DATA, 0, tensors)).batch_size == 2
    tensors["labels"][0] = -1
    with pytest.raises(ChannelError, match="labels from -1 to 1000000000, not 0 or more"):
        wire.unpack(Frame(Kind.SMASHED_DATA, 0, tensors))


@pytest.mark.parametrize("size", [2, 4])
def test_another_batch_than_the_known_one_is_refused(size: int) -> None:
    """Break it: read B off the frame although it is known."""
    frame = Frame(Kind.OUTPUT_GRADIENT, 0, {"output.hidden": torch.zeros(size, 7)})
    assert U_SHAPED.unpack(frame, batch_size=size).batch_size == size
    with pytest.raises(ChannelError, match=rf"\[{size}, 7\], not torch.float32 \[3, 7\]"):
        U_SHAPED.unpack(frame, batch_size=3)
