from __future__ import annotations

import gc
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import torch

from fedsplit.channel.codec import decode, encode, sealed
from fedsplit.channel.endpoint import OnRevoke, SessionHost, nothing
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.channel.grpc_stream import GrpcStream
from fedsplit.errors import ChannelError
from tests.channel.hosts import EchoHost, EchoSession, RawStream, wait_until

Serve = Callable[[SessionHost], GrpcChannel]


def frame_of(step: int = 0, size: int = 3) -> Frame:
    return Frame(Kind.SMASHED_DATA, step, {"cut.hidden": torch.arange(float(size))})


def stream_to(
    address: str,
    token: str = "t",
    *,
    step_timeout: float = 20.0,
    reconnect_timeout: float = 0.0,
    ask_again_after: float | None = None,
) -> GrpcStream:
    return GrpcStream(
        address,
        token,
        step_timeout=step_timeout,
        max_frame_bytes=4096,
        reconnect_timeout=reconnect_timeout,
        ask_again_after=ask_again_after,
    )


def serve_on(
    host: SessionHost,
    address: str = "127.0.0.1:0",
    *,
    max_streams: int = 16,
    reconnect_seconds: float = 0.0,
) -> GrpcChannel:
    return GrpcChannel(
        host, address=address, max_streams=max_streams, reconnect_seconds=reconnect_seconds
    )


@pytest.fixture
def serve() -> Iterator[Serve]:
    channels: list[GrpcChannel] = []

    def start(host: SessionHost) -> GrpcChannel:
        channels.append(serve_on(host))
        return channels[-1]

    yield start
    for channel in channels:
        channel.close()


def test_frames_go_there_and_back(serve: Serve) -> None:
    host = EchoHost()
    with stream_to(serve(host).address) as stream:
        for step in range(3):
            answer = stream.exchange(frame_of(step))
            assert (answer.kind, answer.step) == (Kind.SMASHED_DATA, step)
            assert answer.tensors["cut.hidden"].tolist() == [0.0, 1.0, 2.0]
    size = len(encode(frame_of()))
    traffic = host.sessions["t"].traffic
    assert (traffic.uplink_bytes, traffic.downlink_bytes) == (3 * size, 3 * size)
    assert host.sessions["t"].closed.wait(5)


def test_eight_streams_at_once(serve: Serve) -> None:
    barrier = threading.Barrier(8)  # no frame is answered before all have arrived

    def together(frame: Frame) -> Frame:
        barrier.wait(10)
        return frame

    address = serve(EchoHost(together)).address

    def talk(number: int) -> list[int]:
        with stream_to(address, str(number)) as stream:
            return [stream.exchange(frame_of(step)).step for step in range(5)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(talk, range(8))) == [[0, 1, 2, 3, 4]] * 8


def test_an_unknown_token_is_refused_with_the_hosts_words(serve: Serve) -> None:
    channel = serve(EchoHost())
    with (
        stream_to(channel.address, "unknown") as stream,
        pytest.raises(ChannelError, match=f"{channel.address} .*the token is unknown"),
    ):
        stream.exchange(frame_of())


def test_a_port_that_something_else_listens_on() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ChannelError, match=f"channel.address = '{address}' .*in use.*port 0"):
            serve_on(EchoHost(), address, max_streams=1)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_port_that_another_channel_listens_on(serve: Serve, name: str) -> None:
    port = serve(EchoHost()).address.rpartition(":")[2]
    with pytest.raises(ChannelError, match=f"'{name}:{port}' .*in use"):
        serve_on(EchoHost(), f"{name}:{port}", max_streams=1)


def test_a_closed_channel_frees_its_port(serve: Serve) -> None:
    channel = serve(EchoHost())
    channel.close()
    again = serve_on(EchoHost(), channel.address, max_streams=1)
    with stream_to(again.address) as stream:
        stream.exchange(frame_of())
    again.close()


def test_localhost_is_reachable() -> None:
    channel = serve_on(EchoHost(), "localhost:0", max_streams=1)
    with stream_to(channel.address) as stream:
        assert stream.exchange(frame_of(4)).step == 4
    channel.close()


def test_an_unreachable_server_is_detected_at_once() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: nobody else takes it meanwhile
        address = f"127.0.0.1:{held.getsockname()[1]}"
        start = time.monotonic()
        with stream_to(address) as stream, pytest.raises(ChannelError, match=address):
            stream.exchange(frame_of())
    assert time.monotonic() - start < 5


def test_no_answer_within_the_step_timeout(serve: Serve) -> None:
    release = threading.Event()

    def slow(frame: Frame) -> Frame:
        if frame.step == 1:
            release.wait(10)
        return frame

    host = EchoHost(slow)
    with stream_to(serve(host).address, step_timeout=0.5) as stream:
        stream.exchange(frame_of(0))
        start = time.monotonic()
        with pytest.raises(ChannelError, match=r"step 1 within channel.step-timeout = 0.5 seconds"):
            stream.exchange(frame_of(1))
        assert 0.4 < time.monotonic() - start < 5
    release.set()
    assert host.sessions["t"].closed.wait(5)


def test_a_server_that_closes_in_the_middle(serve: Serve) -> None:
    asked, release = threading.Event(), threading.Event()

    def never(frame: Frame) -> Frame:
        asked.set()
        release.wait(10)
        return frame

    channel = serve(EchoHost(never))

    def close() -> None:
        asked.wait(10)
        channel.close()

    closer = threading.Thread(target=close)
    closer.start()
    start = time.monotonic()
    with stream_to(channel.address) as stream, pytest.raises(ChannelError, match=channel.address):
        stream.exchange(frame_of())
    assert time.monotonic() - start < 5
    release.set()
    closer.join()


def test_a_server_that_closes_between_steps(serve: Serve) -> None:
    channel = serve(EchoHost())
    with stream_to(channel.address) as stream:
        stream.exchange(frame_of())
        channel.close()
        with pytest.raises(ChannelError, match=channel.address):
            stream.exchange(frame_of(1))


def test_frames_beyond_the_limit_are_not_even_read(serve: Serve) -> None:
    host = EchoHost(max_frame_bytes=len(encode(frame_of())))
    with stream_to(serve(host).address) as stream:
        stream.exchange(frame_of())  # exactly as long as allowed
        with pytest.raises(ChannelError, match="larger than max"):
            stream.exchange(frame_of(1, size=4))
    assert [frame.step for frame in host.sessions["t"].frames] == [0]
    assert host.sessions["t"].closed.wait(5)


def test_answers_beyond_the_limit_are_refused_by_the_client(serve: Serve) -> None:
    host = EchoHost(lambda frame: frame_of(frame.step, size=5000))
    with (
        stream_to(serve(host).address) as stream,
        pytest.raises(ChannelError, match="larger than max"),
    ):
        stream.exchange(frame_of())


def test_bytes_that_are_no_frame_end_the_stream(serve: Serve) -> None:
    host = EchoHost()
    with RawStream(serve(host).address, "t") as raw:
        with pytest.raises(grpc.RpcError):
            raw.exchange(sealed(b"\xff\xff"))
        assert raw.call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "message of 11 bytes is not a frame" in raw.call.details()
    assert host.sessions["t"].frames == []
    assert "not a frame" in host.sessions["t"].reason
    assert host.sessions["t"].traffic.uplink_bytes == 0


def test_a_refusal_of_any_length_arrives(serve: Serve) -> None:
    """A reason that does not fit into gRPC's metadata would be lost."""
    header = b'{"a":{"dtype":"' + b"x" * 3000 + b'","shape":[],"data_offsets":[0,0]}}'
    file = len(header).to_bytes(8, "little") + header
    data = b"\x0d\0\0\0\0\x10\x01\x1a" + bytes([len(file) % 128 + 128, len(file) // 128]) + file
    with RawStream(serve(EchoHost()).address, "t") as raw:
        with pytest.raises(grpc.RpcError):
            raw.exchange(sealed(data))
        assert "xxx ..." in raw.call.details()


def test_answers_that_are_no_frame_are_refused(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsplit.channel.resumable.encode", lambda frame: sealed(b"\xff"))
    with (
        stream_to(serve(EchoHost()).address) as stream,
        pytest.raises(ChannelError, match="message of 10 bytes is not a frame"),
    ):
        stream.exchange(frame_of())


def test_a_host_that_fails_is_named_and_the_session_closed(serve: Serve) -> None:
    def fail(frame: Frame) -> Frame:
        raise RuntimeError("out of order")

    host = EchoHost(fail)
    with (
        stream_to(serve(host).address) as stream,
        pytest.raises(ChannelError, match=r"split server failed: RuntimeError\('out of order'\)"),
    ):
        stream.exchange(frame_of())
    assert "out of order" in host.sessions["t"].reason


def test_a_stream_is_over_after_an_error(serve: Serve) -> None:
    def refuse(frame: Frame) -> Frame:
        raise ChannelError("Refused: no.")

    with stream_to(serve(EchoHost(refuse)).address) as stream:
        for _ in range(3):
            with pytest.raises(ChannelError, match=r"Refused: no\."):
                stream.exchange(frame_of())


def test_the_server_can_end_a_stream(serve: Serve) -> None:
    host = EchoHost()
    with stream_to(serve(host).address) as stream:
        stream.exchange(frame_of())
        host.sessions["t"].on_revoke("ended")
        with pytest.raises(ChannelError, match="round is over"):
            stream.exchange(frame_of(1))


def test_a_client_that_finishes_and_does_not_hang_up_keeps_no_thread() -> None:
    host = EchoHost(lambda frame: Frame(Kind.FINISHED, frame.step))
    channel = serve_on(host, "127.0.0.1:0", max_streams=1)
    with RawStream(channel.address, "lingers") as raw:
        raw.exchange(encode(Frame(Kind.FINISH, 0)))
        # gRPC counts a stream a moment longer than it has a thread.
        with stream_to(channel.address, "next", step_timeout=5.0, reconnect_timeout=5.0) as stream:
            assert stream.exchange(Frame(Kind.FINISH, 0)).kind is Kind.FINISHED
    channel.close()


def test_a_session_that_ends_while_it_is_being_opened_ends_its_stream(serve: Serve) -> None:
    class Hasty(EchoHost):
        def open(self, token: str, on_revoke: OnRevoke = nothing) -> EchoSession:
            session = super().open(token, on_revoke)
            session.on_revoke("ended")
            return session

    with (
        stream_to(serve(Hasty()).address, step_timeout=5.0) as stream,
        pytest.raises(ChannelError, match="round is over"),
    ):
        stream.exchange(frame_of())


@pytest.mark.parametrize("way", ["cancel", "half-close", "close the channel"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_client_that_disconnects_closes_its_session(serve: Serve, way: str, steps: int) -> None:
    host = EchoHost()
    raw = RawStream(serve(host).address, "t")
    for step in range(steps):
        raw.exchange(encode(frame_of(step)))
    wait_until(lambda: "t" in host.sessions)
    if way == "cancel":
        raw.call.cancel()
    elif way == "half-close":
        raw.outgoing.put(None)
    else:
        raw.channel.close()
    assert host.sessions["t"].closed.wait(5)
    assert host.sessions["t"].reason == "its stream broke before it had finished"
    raw.__exit__(None, None, None)


def test_a_client_that_disconnects_mid_step_does_not_block_others(serve: Serve) -> None:
    """`close` has to wait for the step; it must not do so on the thread that serves the others."""
    busy, release, lock = threading.Event(), threading.Event(), threading.Lock()

    def answer(frame: Frame) -> Frame:
        if frame.step == 1:
            with lock:
                busy.set()
                release.wait(10)
        return frame

    class Locked(EchoSession):
        def close(self, reason: str) -> None:
            with lock:
                super().close(reason)

    class Host(EchoHost):
        def open(self, token: str, on_revoke: OnRevoke = nothing) -> EchoSession:
            if token == "victim":
                self.sessions[token] = Locked(answer, on_revoke)
                return self.sessions[token]
            return super().open(token, on_revoke)

    host = Host()
    address = serve(host).address
    victim = RawStream(address, "victim")
    with stream_to(address, "other", step_timeout=3.0) as other:
        other.exchange(frame_of(0))
        victim.exchange(encode(frame_of(0)))
        victim.outgoing.put(encode(frame_of(1)))
        assert busy.wait(5)
        victim.call.cancel()
        for step in range(1, 20):  # long enough for the server to notice
            assert other.exchange(frame_of(step)).step == step
            time.sleep(0.01)
        assert not host.sessions["victim"].closed.is_set()
        release.set()
        assert host.sessions["victim"].closed.wait(5)
    victim.__exit__(None, None, None)


def test_a_client_that_disconnects_while_its_stream_opens(serve: Serve) -> None:
    opening, gone = threading.Event(), threading.Event()

    class SlowHost(EchoHost):
        def open(self, token: str, on_revoke: OnRevoke = nothing) -> EchoSession:
            opening.set()
            gone.wait(10)
            time.sleep(0.1)  # until gRPC has seen the end of the call
            return super().open(token, on_revoke)

    host = SlowHost()
    raw = RawStream(serve(host).address, "t")
    assert opening.wait(5)
    raw.call.cancel()
    gone.set()
    wait_until(lambda: "t" in host.sessions)
    assert host.sessions["t"].closed.wait(5)
    raw.__exit__(None, None, None)


def test_no_thread_outlives_its_stream() -> None:
    def fresh(before: set[threading.Thread]) -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread not in before]

    before = set(threading.enumerate())
    channel = serve_on(EchoHost(), "127.0.0.1:0", max_streams=16)
    for number in range(5):
        with stream_to(channel.address, str(number), step_timeout=30.0) as stream:
            stream.exchange(frame_of())
        with stream_to(channel.address, "unknown") as stream, pytest.raises(ChannelError):
            stream.exchange(frame_of())
    ours = ("fedsplit-stream", "Thread-")  # the server's pool, and gRPC's thread behind it
    wait_until(lambda: all(name.startswith(ours) for name in fresh(before)))
    channel.close()
    wait_until(lambda: not fresh(before))


def test_nothing_is_kept_of_the_sessions_of_earlier_rounds() -> None:
    """Break it: keep their last answers for ten minutes. A run of short rounds then grows."""
    host = EchoHost(lambda frame: Frame(Kind.FINISHED, frame.step))
    channel = serve_on(host, reconnect_seconds=5.0)
    kept = []
    for number in range(3):
        host.tokens = {str(number)}
        with stream_to(channel.address, str(number)) as stream:
            stream.exchange(frame_of())
        kept.append(weakref.ref(host.sessions.pop(str(number))))
    gc.collect()
    assert [reference() is None for reference in kept] == [True, True, False]
    channel.close()


def test_an_answer_decodes_to_what_the_raw_bytes_say(serve: Serve) -> None:
    with RawStream(serve(EchoHost()).address, "t") as raw:
        assert decode(raw.exchange(encode(frame_of(9)))).step == 9
