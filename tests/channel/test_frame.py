from __future__ import annotations

from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.wire_pb2 import Frame as WireFrame


def test_the_kinds_are_those_of_the_wire() -> None:
    wire = dict(WireFrame.Kind.items())
    assert wire.pop("KIND_UNSPECIFIED") == 0
    assert {kind.name: kind.value for kind in Kind} == wire


def test_a_frame_without_tensors_has_none() -> None:
    """Break it: share one dict as the default of all frames."""
    assert dict(Frame(Kind.FINISH, 0).tensors) == {}
    assert Frame(Kind.FINISH, 0).tensors is not Frame(Kind.FINISH, 0).tensors
