from __future__ import annotations

import torch

from fedsplit.channel.frame import Kind, pack_cut, unpack_cut
from fedsplit.channel.wire_pb2 import Frame as WireFrame
from fedsplit.split.wire import LABELS, LOSS


def test_the_kinds_are_those_of_the_wire() -> None:
    wire = dict(WireFrame.Kind.items())
    assert wire.pop("KIND_UNSPECIFIED") == 0
    assert {kind.name: kind.value for kind in Kind} == wire


def test_one_tensor_is_called_hidden() -> None:
    hidden = torch.ones(2, 3)
    packed = pack_cut(hidden)
    assert list(packed) == ["cut.hidden"]
    assert unpack_cut({**packed, LABELS: torch.ones(2)}) is hidden


def test_several_tensors_keep_names_and_order() -> None:
    state = {"z": torch.ones(1), "hidden": torch.ones(2), "a": torch.ones(3)}
    packed = pack_cut(state)
    assert list(packed) == ["cut.z", "cut.hidden", "cut.a"]
    unpacked = unpack_cut({LOSS: torch.ones(()), **packed})
    assert isinstance(unpacked, dict)
    assert list(unpacked) == ["z", "hidden", "a"]
    assert all(unpacked[name] is state[name] for name in state)
