"""A smaller run of the benchmark: no hostile frame is accepted, and none raises another error."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from torch import Tensor

from benchmarks.hostile_frames import MUTATIONS, Parts, good_frame, receive, structure, throw
from fedsplit.channel import codec
from fedsplit.channel.frame import Kind
from fedsplit.errors import ChannelError


def test_hostile_frames_are_refused_without_memory() -> None:
    """Break it: leave `tensor_headers.checked` out of the codec, or the values out of `Wire`."""
    found = throw(6_000, seed=1)
    assert found.wrong == []
    assert {kind for kind, _ in found.outcomes} == set(MUTATIONS)
    assert {outcome for _, outcome in found.outcomes} <= {
        *("damaged", "refused", "accepted", "unchanged")
    }
    first, last = found.memory_bytes
    assert last - first < 8 * 2**20


def test_the_legal_frame_is_accepted_and_its_parts_make_it_again() -> None:
    good = good_frame()
    kind, step, tensors = structure(receive(good))
    assert (kind, step) == (Kind.SMASHED_DATA, 7)
    assert isinstance(tensors, dict)
    assert set(tensors) == {"cut.hidden", "cut.half", "cut.grid", "labels"}
    assert Parts.of(good).message() == good


def test_flipped_bits_of_values_make_another_legal_frame_but_nan_does_not() -> None:
    good = good_frame()
    parts = Parts.of(good)
    start = json.loads(parts.header)["cut.hidden"]["data_offsets"][0]

    def with_first(number: float) -> bytes:
        value = torch.tensor([number]).numpy().tobytes()
        values = parts.values[:start] + value + parts.values[start + 4 :]
        return parts._replace(values=values).message()

    found = receive(with_first(2.5))
    assert structure(found) == structure(receive(good))
    assert found.tensors["cut.hidden"].flatten()[0] == 2.5
    for number in (float("nan"), float("inf")):
        with pytest.raises(ChannelError, match=r"NaN or infinity in 'cut\.hidden'"):
            receive(with_first(number))


def test_a_door_that_takes_the_last_of_two_keys_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(file: bytes) -> dict[str, Tensor]:
        return safetensors.torch.load(file)

    monkeypatch.setattr(codec, "_loaded", trusting)
    assert any("(twice)" in line for line in throw(1_000).wrong)
