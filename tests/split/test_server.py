"""The split server's rounds: bits, bytes, and clients of every kind together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from torch import Tensor, nn

from fedsplit.channel.codec import encode, sealed
from fedsplit.channel.ledger import Traffic
from fedsplit.errors import ChannelError
from fedsplit.split.phases import Purpose
from fedsplit.split.server import SplitServer
from tests.channel.hosts import CountingProxy, RawStream
from tests.split.rounds import BAD, GOOD, good_frame, reference_round, train_good
from tests.split.toys import (
    CUT,
    Client,
    Serve,
    Weights,
    assert_close,
    assert_same_bits,
    batches_of,
    copies_in,
    expected_round,
    make_server,
    server_part_of,
    stream_to,
    wait_until,
    weights_of,
)


def _train_all(server: SplitServer, address: str, *, threads: int) -> tuple[Weights, list[Weights]]:
    bottoms: list[Weights] = []
    sizes = {k: (8,) * (k + 2) + (k + 1,) for k in range(4)}
    for server_round in range(2):
        tokens = server.open_round(Purpose.TRAIN, range(4))

        def train(k: int, tokens: Mapping[int, str] = tokens, add: int = server_round) -> Weights:
            return Client(address, tokens[k]).train(batches_of(k + 10 * add, *sizes[k]))

        with ThreadPoolExecutor(threads) as pool:
            bottoms += pool.map(train, range(4))
        report = server.report()
        assert report.failures == {}
        server.close_round(report.num_examples)
    return weights_of(server.server_part), bottoms


def test_four_at_once_give_the_bits_of_one_after_the_other(
    serve_direct: Serve, serve_grpc: Serve
) -> None:
    results = []
    for serve in (serve_direct, serve_grpc):
        for threads in (1, 4):
            server = make_server()
            results.append(_train_all(server, serve(server), threads=threads))
    for part, bottoms in results[1:]:
        assert_same_bits(part, results[0][0])
        for one, other in zip(bottoms, results[0][1], strict=True):
            assert_same_bits(one, other)


def test_eight_concurrent_clients_of_which_half_fail(serve: Serve) -> None:
    """Eight at once, half of which fail in the middle: no deadlock, and the right average."""
    server = make_server()
    address = serve(server)
    tokens = server.open_round(Purpose.TRAIN, range(8))
    data = {k: batches_of(k, 8, 8, k + 1) for k in range(8)}

    def work(k: int) -> None:
        client = Client(address, tokens[k])
        if k % 2 == 0:
            client.train(data[k])
            return
        with client.session:
            client.step(data[k][0])
            if k > 1:  # client 1 only leaves
                with pytest.raises(ChannelError, match="was due"):
                    client.stream.exchange(good_frame(k))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    report = server.report()
    assert report.num_examples == {k: 17 + k for k in (0, 2, 4, 6)}
    assert sorted(report.failures) == [1, 3, 5, 7]
    server.close_round(report.num_examples)
    expected = expected_round({k: data[k] for k in (0, 2, 4, 6)})
    assert_close(weights_of(server.server_part), expected, atol=1e-7)


def _play(address: str, tokens: Mapping[int, str]) -> None:
    """Two good clients, one that is refused, one that dies."""
    train_good(address, tokens)
    with stream_to(address, tokens[2]) as stream:
        stream.exchange(good_frame(0))
        with pytest.raises(ChannelError):
            stream.exchange(good_frame(5))
    with stream_to(address, tokens[3]) as stream:
        stream.exchange(good_frame(0))


def test_the_report_holds_what_crossed_the_wire(serve_grpc: Serve, serve_direct: Serve) -> None:
    server = make_server()
    with CountingProxy(serve_grpc(server)) as wire:
        _play(wire.address, server.open_round(Purpose.TRAIN, range(4)))
        wait_until(lambda: not copies_in(server))
        report = server.report()
    seen = Traffic(wire.uplink_bytes, wire.downlink_bytes)
    assert wire.messages == 3 + 1 + 2 + 1 + 2 + 1
    assert report.traffic == seen
    direct = make_server()
    address = serve_direct(direct)
    _play(address, direct.open_round(Purpose.TRAIN, range(4)))
    assert direct.report().traffic == seen


def test_evaluation_is_in_the_ledger_too(serve_grpc: Serve) -> None:
    server = make_server()
    with CountingProxy(serve_grpc(server)) as wire:
        token = server.open_round(Purpose.EVALUATE, [0])[0]
        client = Client(wire.address, token)
        with client.session:
            for images, labels in GOOD[0]:
                client.session.evaluate_step(client.bottom(images), labels)
            client.session.finish()
        assert server.report().traffic == Traffic(wire.uplink_bytes, wire.downlink_bytes)
    assert wire.downlink_bytes < wire.uplink_bytes


def test_each_round_has_a_ledger_of_its_own(serve: Serve) -> None:
    server = make_server()
    address = serve(server)
    traffic = []
    for _ in range(2):
        tokens = server.open_round(Purpose.TRAIN, [0])
        Client(address, tokens[0]).train(GOOD[0])
        traffic.append(server.report().traffic)
    assert traffic[0] == traffic[1]
    assert server.report().traffic == Traffic()


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xff", b"\x80\x04\x95pickle", encode(good_frame(0))[9:-3], b"\x10\x09"],
    ids=["empty", "junk", "pickle", "truncated", "kind 9"],
)
def test_bytes_that_are_no_frame_change_nothing(serve_grpc: Serve, data: bytes) -> None:
    server = make_server()
    address = serve_grpc(server)
    before = weights_of(server.server_part)
    tokens = server.open_round(Purpose.TRAIN, [0, BAD])
    with RawStream(address, tokens[BAD]) as raw:
        raw.exchange(encode(good_frame(0)))
        with pytest.raises(grpc.RpcError):
            raw.exchange(sealed(data))
        assert "is not a frame of this channel" in raw.call.details()
    wait_until(lambda: not copies_in(server))
    assert_same_bits(weights_of(server.server_part), before)
    Client(address, tokens[0]).train(GOOD[0])
    report = server.report()
    assert report.num_examples == {0: 19}
    server.close_round(report.num_examples)
    assert_close(weights_of(server.server_part), expected_round({0: GOOD[0]}), atol=1e-7)


def test_a_server_part_that_fails_drops_its_client_only(serve_grpc: Serve) -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = server_part_of()

        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 7:
                raise RuntimeError("seven is too many")
            logits: Tensor = self.part(x)
            return logits

    server = make_server(server_part=Fragile())
    address = serve_grpc(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1])
    with pytest.raises(ChannelError, match=r"split server failed: RuntimeError.*seven"):
        Client(address, tokens[1]).train(batches_of(1, 8, 7))
    Client(address, tokens[0]).train(GOOD[0])
    report = server.report()
    assert report.num_examples == {0: 19}
    assert "seven is too many" in report.failures[1]


_DOOMED = """
import sys
from fedsplit.split.server import Purpose
from tests.split.toys import Client, batches_of
client = Client(sys.argv[1], sys.argv[2])
with client.session:
    while True:
        for batch in batches_of(2, 8, 8, 8):
            client.step(batch)
            print("step", flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_is_dropped(serve_grpc: Serve) -> None:
    server = make_server()
    address = serve_grpc(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1, BAD])
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", _DOOMED, address, tokens[BAD]],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        for _ in range(5):
            assert process.stdout.readline() == b"step\n"
        assert BAD in copies_in(server)
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: BAD not in copies_in(server))
    finally:
        process.kill()
        process.communicate()
    train_good(address, tokens)
    start = time.monotonic()
    report = server.report()
    server.close_round(report.num_examples)
    assert time.monotonic() - start < 10
    assert report.num_examples == {0: 19, 1: 9}
    assert report.failures == {BAD: "its stream broke before it had finished"}
    assert_close(weights_of(server.server_part), reference_round(), atol=1e-7)


def test_no_thread_is_left_of_a_round(serve_grpc: Serve) -> None:
    before = set(threading.enumerate())
    server = make_server()
    address = serve_grpc(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1, 2, 3])
    _play(address, tokens)
    server.report()
    kept = ("fedsplit-stream", "Thread-")  # the channel's, until it is closed
    wait_until(
        lambda: all(t.name.startswith(kept) for t in threading.enumerate() if t not in before)
    )


def test_max_frame_bytes_is_the_cuts() -> None:
    server = make_server()
    assert server.max_frame_bytes == CUT.max_frame_bytes
    server.close()
