"""What outlives a round, as bytes and back."""

from __future__ import annotations

import json
import math
import pickle
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from fedsplit.errors import CheckpointError, RunError
from fedsplit.snapshot import (
    flat,
    from_bytes,
    load,
    load_optimizer_state,
    load_values,
    optimizer_state,
    save,
    to_bytes,
)
from tests.trap import Trap

WHOLE: dict[str, Any] = {
    "server_part": {
        "0.weight": torch.arange(6.0).reshape(2, 3),
        "half": torch.tensor([1.5, -2.0, math.inf]).bfloat16(),
        "steps": torch.tensor(2**40),
        "empty": torch.empty(0, 4),
        "mask": torch.tensor([True, False]),
    },
    "rounds": [{"loss": 0.1, "clients": [1, 2]}, {"best": torch.ones(1), "nothing": None}],
    "deep": {"a": {"b": {"c": torch.tensor([1], dtype=torch.int64)}}},
    "none": None,
    "flag": True,
    "count": 3,
    "text": 'quotes " and ü',
    "empty dict": {},
    "empty list": [],
}


def assert_same(one: object, other: object) -> None:
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)
        return
    if isinstance(one, dict):
        assert isinstance(other, dict)
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert isinstance(other, list)
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert type(one) is type(other)
        assert one == other


def test_a_saved_state_comes_back() -> None:
    """Break it: lose a dtype, the order of keys, or an empty branch."""
    assert_same(from_bytes(to_bytes(WHOLE)), WHOLE)
    assert_same(from_bytes(to_bytes({})), {})
    assert to_bytes(WHOLE) == to_bytes(WHOLE)


def test_a_key_that_is_lacking_is_named_in_a_sentence(tmp_path: Path) -> None:
    """At any depth. Code of a user's own may still ask for a KeyError. Break it: a plain dict."""
    save(WHOLE, tmp_path / "state")
    for state in (load(tmp_path / "state"), load_values(tmp_path / "state")):
        with pytest.raises(CheckpointError) as caught:
            state["deep"]["a"]["magnitudes"]
        assert isinstance(caught.value, KeyError)
        assert str(caught.value).startswith(
            f"'{tmp_path / 'state'}' lacks 'magnitudes'. Another version of fedsplit has written"
        )
        assert state.get("other") is None
    with pytest.raises(CheckpointError, match=r"A saved state of \d+ bytes lacks 'x'"):
        from_bytes(to_bytes(WHOLE))["x"]


def test_tuples_come_back_as_lists() -> None:
    assert from_bytes(to_bytes({"orders": [(1, 2), ()]})) == {"orders": [[1, 2], []]}


def test_tensors_that_share_memory_are_saved_apart() -> None:
    """Break it: hand safetensors the tensors themselves; it refuses those that share memory."""
    base = torch.arange(6.0)
    state = {"all": base, "again": base, "part": base[2:4], "turned": base.reshape(2, 3).t()}
    found = from_bytes(to_bytes(state))
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor)
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.values()}) == 4


def test_saving_takes_a_copy_and_no_graph() -> None:
    """Break it: keep a view of the weights; they go on training."""
    weight = torch.zeros(3, requires_grad=True)
    saved = to_bytes({"weight": weight})
    with torch.no_grad():
        weight.add_(1.0)
    found = from_bytes(saved)["weight"]
    assert torch.equal(found, torch.zeros(3))
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a/b": 1}, r"keys \['a/b'\] at ''"),
        ({"a": {1: 2}}, r"keys \[1\] at '/a'"),
        ({"a": {"tensor": "x"}}, r"keys \['tensor'\] at '/a'"),
        ({"tensor": torch.ones(1)}, r"keys \['tensor'\] at ''"),
    ],
)
def test_keys_that_would_be_read_as_something_else_are_refused(
    state: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        to_bytes(state)


def test_a_dict_may_hold_a_tensor_called_tensor_beside_others() -> None:
    state = {"a": {"tensor": torch.ones(2), "other": 1}}
    assert_same(from_bytes(to_bytes(state)), state)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j])
def test_values_that_json_cannot_hold_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        to_bytes({"a": value})


GOOD = to_bytes(WHOLE)


def saved(values: object, **tensors: Tensor) -> bytes:
    return safetensors.torch.save(tensors, metadata={"values": json.dumps(values)})


HOSTILE = {
    "nothing": b"",
    "truncated": GOOD[:-1],
    "cut in the header": GOOD[:40],
    "pickle": pickle.dumps(Trap()),
    "no metadata": safetensors.torch.save({"a": torch.ones(1)}),
    "other metadata": safetensors.torch.save({"a": torch.ones(1)}, metadata={"format": "pt"}),
    "values not JSON": safetensors.torch.save({}, metadata={"values": "junk"}),
    "a list": saved([1, 2]),
    "a number": saved(3),
    "a tensor": saved({"tensor": "a"}, a=torch.ones(1)),
    "a missing tensor": saved({"a": {"tensor": "/b"}}, a=torch.ones(1)),
    "a tensor without a name": saved({"a": {"tensor": ["b"]}}, a=torch.ones(1)),
    "huge header": (2**63).to_bytes(8, "little") + b"{}",
    "deep": saved({"a": None})[:8] + b"[" * 50_000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_bytes_that_are_no_snapshot_are_refused(data: bytes) -> None:
    """Break it: trust the form of the JSON; a list would be returned as a state."""
    with pytest.raises(RunError, match=f"state of {len(data)} bytes cannot be read .*incomplete"):
        from_bytes(data)
    assert not Trap.sprung


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_damaged_bytes_never_raise_anything_else(place: int, value: int) -> None:
    damaged = bytearray(GOOD)
    damaged[place] = value
    try:
        assert isinstance(from_bytes(bytes(damaged)), dict)
    except RunError:
        assert damaged != GOOD


def test_leaves_by_path() -> None:
    state = {"a": {"b": 1, "c": {"d": 2}}, "e": [3, 4], "f": {}}
    assert list(flat(state)) == [("a/b", 1), ("a/c/d", 2), ("e", [3, 4])]


MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def trained(optimizer_of: MakeOptimizer, steps: int, saved_at: int) -> list[Tensor]:
    """Return a layer's weights after some steps, having gone through bytes at one of them."""

    def make() -> tuple[nn.Linear, Optimizer]:
        torch.manual_seed(2)
        layer = nn.Linear(3, 2)
        return layer, optimizer_of(layer.parameters())

    layer, optimizer = make()
    for step in range(steps):
        if step == saved_at:
            data = to_bytes({"layer": layer.state_dict(), "optimizer": optimizer_state(optimizer)})
            layer, optimizer = make()
            state = from_bytes(data)
            layer.load_state_dict(state["layer"])
            load_optimizer_state(optimizer, state["optimizer"])
        optimizer.zero_grad()
        torch.autograd.backward(layer(torch.full((1, 3), step + 1.0)).square().sum())
        optimizer.step()
    return [weight.detach() for weight in layer.parameters()]


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda weights: SGD(weights, lr=0.01),
    "momentum": lambda weights: SGD(weights, lr=0.01, momentum=0.9),
    "adam": lambda weights: Adam(weights, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("saved_at", [0, 1, 3])
def test_an_optimizer_continues_bit_for_bit(name: str, saved_at: int) -> None:
    """Break it: leave out the step count, or keep a number where torch wants a tensor."""
    whole = trained(OPTIMIZERS[name], 5, -1)
    continued = trained(OPTIMIZERS[name], 5, saved_at)
    assert all(torch.equal(one, other) for one, other in zip(whole, continued, strict=True))


def test_the_learning_rate_is_not_part_of_an_optimizers_state() -> None:
    """Break it: save `param_groups` too; a resumed run would keep the old rate."""
    layer = nn.Linear(2, 2)
    first, second = Adam(layer.parameters(), lr=0.5), Adam(layer.parameters(), lr=0.25)
    torch.autograd.backward(layer(torch.ones(1, 2)).sum())
    first.step()
    load_optimizer_state(second, from_bytes(to_bytes(optimizer_state(first))))
    assert [group["lr"] for group in second.param_groups] == [0.25]
    assert [int(state["step"]) for state in second.state.values()] == [1, 1]


def test_a_snapshot_with_a_key_twice_or_too_many_levels_is_refused(tmp_path: Path) -> None:
    """Break it: let safetensors and json take the last of two."""
    size = int.from_bytes(GOOD[:8], "little")
    header = GOOD[8 : 8 + size].decode().rstrip()
    name = '"/deep/a/b/c"'
    entry = json.dumps(json.loads(header)[json.loads(name)], separators=(",", ":"))
    deep = safetensors.torch.save({}, {"values": "0" * 16 + "[" * 5000})
    twice = f"{header[:-1]},{name}:{entry}}}"
    for data, said in (
        (struct.pack("<Q", len(twice)) + twice.encode() + GOOD[8 + size :], "is there twice"),
        (deep, "checksum|nested"),
    ):
        with pytest.raises(RunError, match=said):
            from_bytes(data)
        (tmp_path / "x").write_bytes(data)
        for read in (load, load_values):
            with pytest.raises(RunError, match=f"{said}|nested"):
                read(tmp_path / "x")
