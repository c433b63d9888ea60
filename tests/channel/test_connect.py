from __future__ import annotations

import pytest

from fedsplit.channel.connect import connect
from fedsplit.channel.direct import DirectChannel, DirectStream
from fedsplit.channel.endpoint import Stream
from fedsplit.channel.grpc_stream import GrpcStream
from fedsplit.errors import ChannelError
from tests.channel.hosts import EchoHost


def _connect(address: str) -> Stream:
    return connect(address, "t", step_timeout=1.0, max_frame_bytes=1000)


def test_the_address_chooses_the_channel() -> None:
    channel = DirectChannel(EchoHost())
    with _connect(channel.address) as direct:
        assert isinstance(direct, DirectStream)
    channel.close()
    with _connect("127.0.0.1:1") as stream:
        assert isinstance(stream, GrpcStream)


def test_an_unknown_server_of_this_process() -> None:
    with pytest.raises(ChannelError, match="'direct:none'"):
        _connect("direct:none")
