from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fedsplit.channel.direct import DirectChannel
from fedsplit.channel.endpoint import Channel
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.split.server import SplitServer
from tests.split.toys import Serve


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are slower with several threads; the product defaults to one, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _serving(kind: str) -> Iterator[Serve]:
    channels: list[Channel] = []
    servers: list[SplitServer] = []

    def start(server: SplitServer) -> str:
        if kind == "grpc":
            channels.append(GrpcChannel(server, address="127.0.0.1:0", max_streams=16))
        else:
            channels.append(DirectChannel(server))
        servers.append(server)
        return channels[-1].address

    yield start
    for channel in channels:
        channel.close()
    for server in servers:
        server.close()


@pytest.fixture(params=["direct", "grpc"])
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """Serve a split server over either channel; returns its address."""
    yield from _serving(request.param)


@pytest.fixture
def serve_direct() -> Iterator[Serve]:
    yield from _serving("direct")


@pytest.fixture
def serve_grpc() -> Iterator[Serve]:
    yield from _serving("grpc")
