from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedsplit.channel.codec import encode
from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.checks import CutSpec, check_order, check_tensor
from fedsplit.split.wire import CUT_PREFIX, LABELS, LOSS, NUM_CORRECT
from fedsplit.states import TensorSpec

CUT = CutSpec(
    {"hidden": TensorSpec((1, 3, 4), torch.float32), "place": TensorSpec((1, 2), torch.int64)},
    num_labels=5,
    max_batch_size=6,
)


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
def test_what_the_cut_sends_passes(batch_size: int) -> None:
    CUT.check(Frame(Kind.SMASHED_DATA, 0, good_tensors(batch_size)))


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
    "nobody": (
        lambda t: t.update(good_tensors(0)),
        "has 0 examples, not 1 to batch-size = 6",
    ),
    "too many": (
        lambda t: t.update(good_tensors(7)),
        "has 7 examples, not 1 to batch-size = 6",
    ),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
def test_anything_else_is_refused(change: Change, words: str) -> None:
    tensors = good_tensors()
    change(tensors)
    with pytest.raises(ChannelError, match=words) as refusal:
        CUT.check(Frame(Kind.SMASHED_DATA, 3, tensors))
    assert str(refusal.value).startswith("Refused: the SMASHED_DATA frame of step 3 ")


def test_names_without_end_do_not_make_a_message_without_end() -> None:
    tensors = {f"cut.{number}" * 10: torch.zeros(0) for number in range(1000)}
    with pytest.raises(ChannelError, match="holds the tensors") as refusal:
        CUT.check(Frame(Kind.SMASHED_DATA, 0, tensors))
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
    cut = CutSpec({"hidden": TensorSpec((1, *shape), dtype)}, 10, max_batch_size)

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

    # ... and the limit is no larger than it has to be.
    assert max(lengths(max_batch_size)) == cut.max_frame_bytes
    assert max(lengths(data.draw(st.integers(1, max_batch_size)))) <= cut.max_frame_bytes


def test_the_answer_to_one_example_fits() -> None:
    """It is longer than the question: loss and hits take more than one label."""
    cut = CutSpec({"hidden": TensorSpec((1, 4), torch.float32)}, 3, 1)
    scores = {LOSS: torch.zeros(()), NUM_CORRECT: torch.tensor(0)}
    answer = Frame(Kind.CUT_GRADIENT, 0, {"cut.hidden": torch.zeros(1, 4), **scores})
    assert len(encode(answer)) == cut.max_frame_bytes


@pytest.mark.parametrize("step", [0, 2, 4, 2**32 - 1])
def test_only_the_next_step_passes(step: int) -> None:
    check_order(Frame(Kind.FINISH, 3), step=3)
    with pytest.raises(ChannelError, match=f"FINISH frame.* has step {step} where step 3 was due"):
        check_order(Frame(Kind.FINISH, step), step=3)


def test_check_tensor_reads_half_precision() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        frame = Frame(Kind.CUT_GRADIENT, 0, {"g": torch.tensor([1.0, float("nan")], dtype=dtype)})
        with pytest.raises(ChannelError, match="NaN or infinity in 'g'"):
            check_tensor(frame, "g", shape=torch.Size([2]), dtype=dtype)


def test_whole_numbers_that_the_image_size_fixes_must_be_those() -> None:
    """Break it: check the shape only; a grid of a million patches then makes the server compute."""
    size = TensorSpec((1, 2), torch.int64, (8, 8))
    packed = TensorSpec((4, 3), torch.float32)
    cut = CutSpec({"hidden": packed, "size": size}, 5, 8)
    tensors = {
        "cut.hidden": torch.zeros(12, 3),
        "cut.size": torch.full((3, 2), 8),
        "labels": torch.zeros(3, dtype=torch.int64),
    }
    assert cut.check(Frame(Kind.SMASHED_DATA, 0, tensors)) == 3
    unlabelled = {name: tensor for name, tensor in tensors.items() if name != "labels"}
    u_shaped = CutSpec(cut.tensors, 5, 8, output={"hidden": packed})
    assert u_shaped.check(Frame(Kind.SMASHED_DATA, 0, unlabelled)) == 3

    tensors["cut.size"][1, 0] = 10**6
    with pytest.raises(ChannelError, match=r"other numbers in 'cut\.size' than \[8, 8\]"):
        cut.check(Frame(Kind.SMASHED_DATA, 0, tensors))
