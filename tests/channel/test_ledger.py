from __future__ import annotations

import torch

from fedsplit.channel.connect import connect
from fedsplit.channel.direct import DirectChannel, DirectStream
from fedsplit.channel.endpoint import Stream
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.channel.ledger import Traffic
from tests.channel.hosts import CountingProxy, EchoHost


def test_traffic_adds_direction_by_direction() -> None:
    assert Traffic(1, 20) + Traffic(300, 4000) == Traffic(301, 4020)
    assert sum([Traffic(1, 2), Traffic(3, 4)], Traffic()) == Traffic(4, 6)


def _answer(frame: Frame) -> Frame:
    return Frame(Kind.CUT_GRADIENT, frame.step, {"answer": torch.ones(frame.step, 2)})


def _talk(stream: Stream) -> None:
    with stream:
        for step in range(5):
            tensors = {"cut.hidden": torch.ones(step + 1, 3), "labels": torch.arange(step)}
            stream.exchange(Frame(Kind.SMASHED_DATA, step, tensors))
        stream.exchange(Frame(Kind.FINISH, 5))


def test_the_ledger_holds_what_crossed_the_wire() -> None:
    host = EchoHost(_answer)
    channel = GrpcChannel(host, address="127.0.0.1:0", max_streams=2)
    with CountingProxy(channel.address) as wire:
        _talk(connect(wire.address, "grpc", step_timeout=10.0, max_frame_bytes=4096))
    channel.close()
    _talk(DirectStream(DirectChannel(host).address, "direct"))
    assert wire.messages == 6
    seen = Traffic(wire.uplink_bytes, wire.downlink_bytes)
    assert seen.uplink_bytes > 0
    assert seen.downlink_bytes > 0
    assert host.sessions["grpc"].traffic == seen
    assert host.sessions["direct"].traffic == seen
