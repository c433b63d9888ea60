"""Strangers who connect and stay silent. The limits of this process are put back."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch

from fedsplit.channel import limits
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.channel.grpc_stream import GrpcStream
from fedsplit.channel.limits import connection_options
from fedsplit.errors import ChannelError
from tests.channel.hosts import EchoHost, wait_until


@contextmanager
def open_files(soft: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def num_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_soft_limit_of_open_files_is_raised() -> None:
    """1,000 silent connections ended a server at the usual soft limit of 1024."""
    with open_files(512):
        options = dict(connection_options(8))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == min(hard, 2**20)
        assert options["grpc.max_allowed_incoming_connections"] == soft - 256


def test_a_limit_that_is_too_low_is_refused_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_raised_limit", lambda: 1024)
    with pytest.raises(
        ChannelError, match=r"may open 1024 files \(ulimit -Hn\).*need 1000 and 256"
    ):
        connection_options(1000)


def test_silent_connections_are_closed_and_clients_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer places than strangers; some send HTTP/2's first words, and then nothing.

    Break it: leave out "grpc.max_connection_idle_ms", and the client finds no place.
    """
    monkeypatch.setattr(limits, "_raised_limit", lambda: 256 + 20)
    monkeypatch.setattr(limits, "IDLE_SECONDS", 1.0)
    channel = GrpcChannel(EchoHost(), address="127.0.0.1:0", max_streams=8)
    host, _, port = channel.address.rpartition(":")
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    before = num_open()
    try:
        with ExitStack() as strangers:
            for number in range(100):
                stranger = socket.create_connection((host, int(port)), timeout=5)
                strangers.enter_context(stranger)
                if number % 2:
                    stranger.sendall(hello)
            stream = GrpcStream(
                channel.address, "t", step_timeout=20, max_frame_bytes=4096, reconnect_timeout=20
            )
            began = time.monotonic()
            with stream:
                for step in range(3):
                    frame = Frame(Kind.SMASHED_DATA, step, {"cut.hidden": torch.arange(3.0)})
                    assert stream.exchange(frame).step == step
                    time.sleep(1.0)  # longer than a stranger may be silent
            assert time.monotonic() - began < 15
            wait_until(lambda: num_open() < before + 100 + 10)  # the server's ends are gone
    finally:
        channel.close()
