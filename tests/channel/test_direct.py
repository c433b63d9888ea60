from __future__ import annotations

import pytest
import torch

from fedsplit.channel.codec import encode
from fedsplit.channel.direct import DirectChannel, DirectStream
from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from tests.channel.hosts import EchoHost

FRAME = Frame(Kind.SMASHED_DATA, 0, {"cut.hidden": torch.ones(2, 3)})


def test_exchange_counts_what_the_wire_would_carry() -> None:
    answer = Frame(Kind.CUT_GRADIENT, 0, {"cut.hidden": torch.ones(5, 3)})
    host = EchoHost(lambda frame: answer)
    with DirectStream(DirectChannel(host).address, "t") as stream:
        for exchanges in (1, 2, 3):
            assert stream.exchange(FRAME) is answer
            traffic = host.sessions["t"].traffic
            assert traffic.uplink_bytes == exchanges * len(encode(FRAME))
            assert traffic.downlink_bytes == exchanges * len(encode(answer))


def test_a_refused_frame_counts_up_only() -> None:
    def refuse(frame: Frame) -> Frame:
        raise ChannelError("Refused: no.")

    host = EchoHost(refuse)
    with (
        pytest.raises(ChannelError, match=r"^Refused: no\.$"),
        DirectStream(DirectChannel(host).address, "t") as stream,
    ):
        stream.exchange(FRAME)
    traffic = host.sessions["t"].traffic
    assert (traffic.uplink_bytes, traffic.downlink_bytes) == (len(encode(FRAME)), 0)
    assert host.sessions["t"].closed.is_set()


def test_leaving_the_block_closes_the_session() -> None:
    host = EchoHost()
    with DirectStream(DirectChannel(host).address, "t"):
        assert not host.sessions["t"].closed.is_set()
    assert host.sessions["t"].reason == "the client closed the stream before it had finished"


def test_channels_do_not_mix() -> None:
    hosts = EchoHost(), EchoHost()
    channels = [DirectChannel(host) for host in hosts]
    DirectStream(channels[1].address, "t")
    assert (len(hosts[0].sessions), len(hosts[1].sessions)) == (0, 1)


def test_a_closed_channel_and_a_wrong_token_are_refused() -> None:
    channel = DirectChannel(EchoHost())
    with pytest.raises(ChannelError, match="token is unknown"):
        DirectStream(channel.address, "unknown")
    channel.close()
    channel.close()
    with pytest.raises(ChannelError, match=f"'{channel.address}'"):
        DirectStream(channel.address, "t")
