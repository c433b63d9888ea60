from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedsplit.boundary import (
    BARE_NAME,
    Boundary,
    State,
    TensorSpec,
    by_name,
    concatenate,
    each,
    examples,
    has_numbers,
    length,
    zeros,
)


def tensor_of(first: int, size: int) -> Tensor:
    return torch.arange(first, first + 2 * size, dtype=torch.float32).reshape(size, 2)


def tree_of(first: int, size: int) -> dict[str, Tensor]:
    return {"z": tensor_of(first, size), "place": torch.arange(size), "a": -tensor_of(first, size)}


MAKE = [tensor_of, tree_of]


def flat(state: State) -> list[tuple[str, Tensor]]:
    return [("", state)] if isinstance(state, Tensor) else list(state.items())


@pytest.mark.parametrize("make", MAKE)
def test_slices_of_the_whole_are_its_parts(make: type) -> None:
    """Break it: concatenate a tree in the order of its names."""
    parts = [make(0, 3), make(6, 1), make(8, 4)]
    whole = concatenate(parts)
    assert length(whole) == 8
    start = 0
    for part in parts:
        end = start + length(part)
        for (name, one), (other_name, other) in zip(
            flat(examples(whole, start, end, 8)), flat(part), strict=True
        ):
            assert name == other_name
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        start = end


@pytest.mark.parametrize("make", MAKE)
def test_slices_are_views_and_zeros_are_not(make: type) -> None:
    state = make(1, 4)
    for (_, view), (_, tensor) in zip(flat(examples(state, 1, 3, 4)), flat(state), strict=True):
        assert view.data_ptr() == tensor[1].data_ptr()
    for (name, zero), (other, tensor) in zip(flat(zeros(state, 3, 4)), flat(state), strict=True):
        assert (name, zero.dtype) == (other, tensor.dtype)
        assert zero.shape == (3, *tensor.shape[1:])
        assert not zero.any()


def test_each_keeps_names_and_their_order() -> None:
    changed = each(tree_of(1, 2), lambda tensor: tensor * 2)
    assert isinstance(changed, dict)
    assert list(changed) == ["z", "place", "a"]
    assert torch.equal(changed["z"], 2 * tensor_of(1, 2))
    assert changed["place"].dtype is torch.int64
    alone = each(tensor_of(0, 1), lambda tensor: tensor + 1)
    assert torch.equal(torch.as_tensor(alone), torch.tensor([[1.0, 2.0]]))


def test_one_state_alone_is_itself() -> None:
    assert torch.equal(torch.as_tensor(concatenate([tensor_of(0, 3)])), tensor_of(0, 3))


def test_packed_rows_are_shared_out_by_examples() -> None:
    """Break it: slice every tensor by the numbers of the first."""
    packed = {"hidden": torch.arange(12.0).reshape(12, 1), "size": torch.arange(4).reshape(4, 1)}
    assert length(packed) == 12
    view = examples(packed, 3, 9, 12)
    assert isinstance(view, dict)
    assert view["hidden"].flatten().tolist() == [3, 4, 5, 6, 7, 8]
    assert view["size"].flatten().tolist() == [1, 2]
    assert TensorSpec((3, 1), torch.float32).shape_for(4) == packed["hidden"].shape


FLOAT = TensorSpec((1, 3), torch.float32)
BARE = Boundary({BARE_NAME: FLOAT}, bare=True)
LONE = Boundary({BARE_NAME: FLOAT})
MIXED = Boundary({"z": FLOAT, "count": TensorSpec((1,), torch.int64), "a": FLOAT})


def test_a_state_by_name() -> None:
    """Break it: call a bare tensor by another name, or copy a dict's tensors."""
    tensor = torch.ones(2, 3)
    assert by_name(tensor) == {"hidden": tensor}
    for state in ({"hidden": tensor}, {"z": tensor, "a": tensor}):
        assert by_name(state) is state


@pytest.mark.parametrize(
    ("boundary", "state"),
    [
        (BARE, torch.ones(2, 3)),
        (LONE, {"hidden": torch.ones(2, 3)}),
        (MIXED, {"z": torch.ones(2, 3), "count": torch.arange(2), "a": torch.ones(2, 3)}),
    ],
    ids=["bare", "a dict of one", "a dict"],
)
def test_a_boundary_gives_back_the_form_that_modules_pass(boundary: Boundary, state: State) -> None:
    """Break it: look at the number of tensors instead of at `bare`."""
    found = boundary.to_state(by_name(state))
    assert type(found) is type(state)
    assert list(by_name(found)) == list(by_name(state))
    assert all(by_name(found)[name] is tensor for name, tensor in by_name(state).items())


def test_the_order_is_that_of_the_boundary() -> None:
    named = {"a": torch.ones(1), "count": torch.ones(1), "z": torch.ones(1), "b": torch.ones(1)}
    found = MIXED.to_state(named)
    assert isinstance(found, dict)
    assert list(found) == ["z", "count", "a"]


def test_nothing_is_an_empty_dict_whatever_the_form() -> None:
    """What stands for the cut gradient of a frozen bottom."""
    for boundary in (BARE, LONE, MIXED, Boundary({})):
        assert boundary.to_state({}) == {}


def test_the_floating_part_keeps_the_form() -> None:
    """Break it: make a dict of one bare when its integers are gone."""
    assert BARE.floating == BARE
    assert LONE.floating == LONE
    assert list(MIXED.floating.tensors) == ["z", "a"]
    one = Boundary({"hidden": FLOAT, "count": TensorSpec((1,), torch.int64)}).floating
    assert isinstance(one.to_state({"hidden": torch.ones(1, 3)}), dict)
    integers = Boundary({"count": TensorSpec((1,), torch.int64)})
    assert dict(integers.floating.tensors) == {}


def test_numbers_are_floats_with_storage() -> None:
    assert has_numbers(torch.ones(1))
    assert has_numbers({"count": torch.arange(2), "x": torch.ones(1)})
    assert not has_numbers({"count": torch.arange(2)})
    assert not has_numbers(torch.ones(1, device="meta"))
