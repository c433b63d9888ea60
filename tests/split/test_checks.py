"""The checks of single tensors; those of whole frames are in test_wire.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.checks import (
    all_finite,
    check_labels,
    check_names,
    check_order,
    check_tensor,
    check_value,
    refused,
)

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def holding(**tensors: Tensor) -> Frame:
    return Frame(Kind.CUT_GRADIENT, 3, tensors)


def test_a_refusal_names_the_frame_and_its_step_and_is_cut_short() -> None:
    assert str(refused(holding(), "has a fault")) == (
        "Refused: the CUT_GRADIENT frame of step 3 has a fault."
    )
    assert len(str(refused(holding(), "x" * 9000))) < 1100


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b", "c"], ["a", "B"]], ids=str)
def test_other_names_are_refused(names: list[str]) -> None:
    """Break it: accept a subset, or a superset."""
    check_names(holding(b=torch.ones(1), a=torch.ones(1)), ["a", "b"])
    with pytest.raises(ChannelError, match=r"holds the tensors .*, not \['a', 'b'\]"):
        check_names(holding(**{name: torch.ones(1) for name in names}), ["a", "b"])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 2])
def test_nan_and_infinity_are_refused_in_every_dtype(
    dtype: torch.dtype, value: float, place: int
) -> None:
    tensor = torch.ones(3, dtype=dtype)
    check_tensor(holding(g=tensor), "g", shape=torch.Size([3]), dtype=dtype)
    tensor[place] = value
    with pytest.raises(ChannelError, match="has NaN or infinity in 'g'; lower learning-rate"):
        check_tensor(holding(g=tensor), "g", shape=torch.Size([3]), dtype=dtype)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.ones(3, 2), r"'g' as torch.float32 \[3, 2\], not torch.float32 \[2, 3\]"),
        (torch.ones(6), r"torch.float32 \[6\], not torch.float32 \[2, 3\]"),
        (torch.ones(2, 3).half(), r"torch.float16 \[2, 3\], not torch.float32 \[2, 3\]"),
        (torch.ones(2, 3).long(), r"torch.int64 \[2, 3\], not torch.float32 \[2, 3\]"),
    ],
    ids=["transposed", "flat", "half", "integers"],
)
def test_another_shape_or_dtype_is_refused(tensor: Tensor, words: str) -> None:
    with pytest.raises(ChannelError, match=words):
        check_tensor(holding(g=tensor), "g", shape=torch.Size([2, 3]), dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool], ids=str)
def test_integers_are_always_finite(dtype: torch.dtype) -> None:
    assert all_finite(torch.ones(3, dtype=dtype))


@pytest.mark.parametrize("shape", [(0,), (0, 4), ()], ids=str)
def test_empty_tensors_and_scalars(shape: tuple[int, ...]) -> None:
    """Break it: call `aminmax` on an empty tensor; it raises."""
    assert all_finite(torch.ones(shape))
    assert not all_finite(torch.full((), torch.nan))


def test_fixed_integers_must_be_the_same_for_every_example() -> None:
    """Break it: look at the first example only, or at the sum."""
    size = torch.tensor([[8, 6], [8, 6], [8, 6]])
    check_value(holding(size=size), "size", (8, 6))
    check_value(holding(size=size.flatten()), "size", (8, 6))  # two rows for each example
    for wrong in ([6, 8], [8, 10**6]):
        size[2] = torch.tensor(wrong)
        with pytest.raises(ChannelError, match=r"values in 'size' other than \[8, 6\]"):
            check_value(holding(size=size), "size", (8, 6))


@pytest.mark.parametrize(
    ("labels", "words"),
    [([0, 5], "from 0 to 5, not 0 to 4"), ([-1, 2], "from -1 to 2, not 0 to 4")],
)
def test_labels_out_of_range_are_refused(labels: list[int], words: str) -> None:
    check_labels(holding(), torch.tensor([4, 0]), 5)
    with pytest.raises(ChannelError, match=f"has labels {words}"):
        check_labels(holding(), torch.tensor(labels), 5)


def test_labels_without_an_upper_bound() -> None:
    """Break it: compare with 0 as with any other number of classes."""
    check_labels(holding(), torch.tensor([0, 10**9]), 0)
    with pytest.raises(ChannelError, match="has labels from -2 to 7, not 0 or more"):
        check_labels(holding(), torch.tensor([7, -2]), 0)


@pytest.mark.parametrize("step", [0, 2, 4, 2**32 - 1])
def test_only_the_next_step_passes(step: int) -> None:
    check_order(Frame(Kind.FINISH, 3), step=3)
    with pytest.raises(ChannelError, match=f"FINISH frame.* has step {step} where step 3 was due"):
        check_order(Frame(Kind.FINISH, step), step=3)
