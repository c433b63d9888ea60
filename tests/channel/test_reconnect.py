"""Streams that break: every frame is answered exactly once, and bounded in time."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress

import grpc
import pytest
from xxhash import xxh3_64_hexdigest

from fedsplit.channel.codec import encode
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.channel.grpc import _answers as grpc_answers
from fedsplit.channel.grpc_stream import GrpcStream
from fedsplit.channel.opening import KEY, Opening, answered_metadata, read_answered
from fedsplit.channel.resumable import ResumableSession
from fedsplit.errors import ChannelError, DamagedError
from tests.channel.hosts import EchoHost, RawStream, wait_until
from tests.channel.proxy import FaultyProxy
from tests.channel.test_grpc import frame_of, serve_on, stream_to

SECONDS = 5.0
FORMS = ['["t"]', '["t",-1,false]', "{}", "1", "[1,2,true]", "[", '["t",0,0]', "[" * 10_000]


class Served:
    """A channel that clients reach through a proxy, whose connections a test cuts."""

    def __init__(self, host: EchoHost, *, reconnect_seconds: float = SECONDS) -> None:
        self.host = host
        self.channel = serve_on(host, reconnect_seconds=reconnect_seconds)
        self.proxy = FaultyProxy(self.channel.address, mean_bytes=0)

    def stream(
        self,
        *,
        step_timeout: float = 20.0,
        reconnect: float = SECONDS,
        ask_again_after: float | None = None,
    ) -> GrpcStream:
        return stream_to(
            self.proxy.address,
            "t",
            step_timeout=step_timeout,
            reconnect_timeout=reconnect,
            ask_again_after=ask_again_after,
        )

    @property
    def handled(self) -> list[int]:
        """The steps of the frames that the session has handled."""
        return [frame.step for frame in self.host.sessions["t"].frames]


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served(EchoHost(_finishing))
    yield made
    made.channel.close()
    made.proxy.close()


def _finishing(frame: Frame) -> Frame:
    return Frame(Kind.FINISHED, frame.step) if frame.kind is Kind.FINISH else frame


def test_a_stream_that_breaks_between_steps_goes_on(served: Served) -> None:
    with served.stream() as stream:
        for step in range(4):
            assert stream.exchange(frame_of(step)).step == step
            served.proxy.cut_all()
        stream.exchange(Frame(Kind.FINISH, 4))
    assert served.handled == [0, 1, 2, 3, 4]


def test_an_answer_that_was_lost_is_given_again_and_the_step_not_taken_again() -> None:
    """Break it: let the client send its frame again whatever the server has answered."""
    cut = threading.Event()

    def answer(frame: Frame) -> Frame:
        if frame.step == 1 and not cut.is_set():
            cut.set()
            mine.proxy.cut_all()
            time.sleep(0.3)  # until the connection is seen to be gone
        return _finishing(frame)

    mine = Served(EchoHost(answer))
    with mine.stream() as stream:
        for step in range(3):
            assert stream.exchange(frame_of(step)).step == step
        stream.exchange(Frame(Kind.FINISH, 3))
    assert mine.handled == [0, 1, 2, 3]
    size, end = len(encode(frame_of())), len(encode(Frame(Kind.FINISH, 3)))
    traffic = mine.host.sessions["t"].traffic
    assert (traffic.uplink_bytes, traffic.downlink_bytes) == (3 * size + end, 3 * size + end)
    assert traffic.repeated_bytes == 0  # the client was back before there was an answer
    mine.channel.close()


def test_an_answer_that_was_sent_and_is_given_again_counts_as_repeated(served: Served) -> None:
    data = encode(frame_of())
    with RawStream(served.channel.address, "t") as raw:
        assert raw.exchange(data) == data
        raw.call.cancel()
    with RawStream(served.channel.address, "t") as again:  # it has no answer yet
        assert next(again.call) == data
    traffic = served.host.sessions["t"].traffic
    assert (traffic.downlink_bytes, traffic.repeated_bytes) == (len(data), len(data))
    assert served.handled == [0]


def test_a_lost_farewell_is_given_again() -> None:
    """Break it: forget a session once it has finished."""

    def answer(frame: Frame) -> Frame:
        if frame.kind is Kind.FINISH:
            mine.proxy.cut_all()
            time.sleep(0.3)
        return _finishing(frame)

    mine = Served(EchoHost(answer))
    with mine.stream() as stream:
        stream.exchange(frame_of(0))
        assert stream.exchange(Frame(Kind.FINISH, 1)).kind is Kind.FINISHED
    assert mine.handled == [0, 1]
    mine.channel.close()


def test_a_client_that_does_not_return_is_closed_after_the_timeout() -> None:
    served = Served(EchoHost(), reconnect_seconds=0.5)
    raw = RawStream(served.proxy.address, "t")
    raw.exchange(encode(frame_of()))
    served.proxy.close()
    began = time.monotonic()
    assert served.host.sessions["t"].closed.wait(5)
    assert 0.4 < time.monotonic() - began < 5
    assert served.host.sessions["t"].reason == (
        "its stream broke, and it did not connect again within channel.reconnect-timeout = 0.5 "
        "seconds"
    )
    late = stream_to(served.channel.address, "t", reconnect_timeout=5.0)
    with late as stream, pytest.raises(ChannelError, match="Refused: the session is closed"):
        stream.exchange(frame_of(1))
    served.channel.close()


def test_breaking_again_and_again_wins_no_time() -> None:
    """Break it: begin the timeout anew whenever a stream breaks."""
    served = Served(EchoHost(), reconnect_seconds=1.0)
    with RawStream(served.proxy.address, "t") as raw:
        raw.exchange(encode(frame_of()))
    began = time.monotonic()
    while not served.host.sessions["t"].closed.is_set():
        assert time.monotonic() - began < 8
        time.sleep(0.2)
        with RawStream(served.channel.address, "t", answers=1) as again:
            time.sleep(0.05)
            again.call.cancel()
    served.channel.close()


def test_a_client_that_only_computes_long_loses_nothing() -> None:
    served = Served(EchoHost(_finishing), reconnect_seconds=1.5)
    with served.stream(reconnect=1.5) as stream:
        stream.exchange(frame_of(0))
        time.sleep(2.5)
        stream.exchange(frame_of(1))
        assert served.handled == [0, 1]
    served.channel.close()


def test_a_server_that_answers_late_answers_once() -> None:
    """Break it: handle the frame on the new stream while it is still handled on the old one."""

    def answer(frame: Frame) -> Frame:
        if frame.step == 1:
            time.sleep(1.2)
        return _finishing(frame)

    served = Served(EchoHost(answer))
    with served.stream(step_timeout=0.5) as stream:
        for step in range(3):
            assert stream.exchange(frame_of(step)).step == step
    assert served.handled == [0, 1, 2]
    served.channel.close()


def test_a_server_that_never_answers_is_given_up_in_bounded_time() -> None:
    release = threading.Event()

    def answer(frame: Frame) -> Frame:
        release.wait(20)
        return frame

    served = Served(EchoHost(answer))
    began = time.monotonic()
    with served.stream(step_timeout=0.4, reconnect=1.0) as stream:
        with pytest.raises(ChannelError, match=r"step 0 within channel.step-timeout = 0.4 seconds"):
            stream.exchange(frame_of())
        assert time.monotonic() - began < 4
        with pytest.raises(ChannelError, match="step 0 within"):  # a stream given up stays so
            stream.exchange(frame_of())
    release.set()
    served.channel.close()


def losing(*fates: str) -> Callable[..., Iterator[bytes]]:
    """Return a stand-in for what answers a channel's streams: each one has its fate."""
    left = list(fates)

    def answers(
        session: ResumableSession, stream: int, frames: Iterator[bytes], *, again: bool
    ) -> Iterator[bytes]:
        match left.pop(0) if left else "answered":
            case "broken":
                next(frames)
                raise DamagedError("broken")
            case "lost":
                with suppress(grpc.RpcError):
                    deque(frames, maxlen=0)
            case _:
                yield from grpc_answers(session, stream, frames, again=again)

    return answers


def test_a_frame_that_is_lost_after_a_break_leaves_time_to_connect_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: limit the time since the first break, connected or not."""
    monkeypatch.setattr("fedsplit.channel.grpc._answers", losing("broken", "lost"))
    with served.stream(step_timeout=2.0, reconnect=0.5, ask_again_after=0.8) as stream:
        for step in range(2):
            assert stream.exchange(frame_of(step)).step == step
    assert served.handled == [0, 1]


def test_a_lost_frame_is_sent_again_long_before_the_limit_of_a_step(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsplit.channel.grpc._answers", losing("lost", "lost"))
    began = time.monotonic()
    with served.stream(step_timeout=60.0, ask_again_after=0.3) as stream:
        assert stream.exchange(frame_of()).step == 0
    assert time.monotonic() - began < 5
    assert served.handled == [0]


def test_two_admissions_that_are_lost_leave_time_for_a_third(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: wait for one half of the time that there is to connect again."""
    admit, lose = GrpcChannel._admit, [True, True]

    def admit_late(channel: GrpcChannel, context: grpc.ServicerContext) -> object:
        if Opening.of(context.invocation_metadata()).sends_again and lose:
            lose.pop()
            while context.is_active():
                time.sleep(0.01)
            return None
        return admit(channel, context)

    monkeypatch.setattr(GrpcChannel, "_admit", admit_late)
    monkeypatch.setattr("fedsplit.channel.grpc._answers", losing("broken"))
    began = time.monotonic()
    with served.stream(step_timeout=60.0, reconnect=2.0) as stream:
        assert stream.exchange(frame_of()).step == 0
    assert 1.0 < time.monotonic() - began < 5
    assert served.handled == [0]


def test_a_client_that_asks_again_while_its_frame_is_handled_neither_sends_nor_gets_it_twice() -> (
    None
):
    """Break it: tell the client how many frames were answered, without the one being handled."""
    release = threading.Event()

    def answer(frame: Frame) -> Frame:
        assert release.wait(20)
        return frame

    mine = Served(EchoHost(answer))
    with mine.stream(step_timeout=60.0, reconnect=0.5, ask_again_after=0.2) as stream:
        threading.Timer(2.0, release.set).start()
        assert stream.exchange(frame_of()).step == 0
        # It asked about ten times; streams that were replaced keep no threads.
        names = [thread.name for thread in threading.enumerate()]
        assert sum(name.startswith("fedsplit-stream") for name in names) < 5
    traffic, size = mine.host.sessions["t"].traffic, len(encode(frame_of()))
    assert mine.handled == [0]
    assert (traffic.uplink_bytes, traffic.downlink_bytes) == (size, size)
    assert traffic.repeated_bytes == 0
    mine.channel.close()


def test_a_server_that_loses_every_frame_is_given_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsplit.channel.grpc._answers", losing(*["lost"] * 9))
    began = time.monotonic()
    with (
        served.stream(step_timeout=0.5, reconnect=0.6) as stream,
        pytest.raises(ChannelError, match="step 0 within"),
    ):
        stream.exchange(frame_of())
    assert 0.9 < time.monotonic() - began < 4


def test_a_connection_that_falls_silent_is_found_dead_and_replaced() -> None:
    """No limit of a step is near. Break it: leave out the keepalive options."""
    served = Served(EchoHost(_finishing), reconnect_seconds=2.0)
    silent = FaultyProxy(served.channel.address, mean_bytes=2000, seed=3, kinds=["stall"])
    began = time.monotonic()
    with stream_to(silent.address, "t", step_timeout=600.0, reconnect_timeout=2.0) as stream:
        for step in range(30):
            assert stream.exchange(frame_of(step)).step == step
            if silent.faults["stall"] >= 2:
                break
    assert silent.faults["stall"] >= 2
    assert time.monotonic() - began < 30
    assert served.handled == list(range(step + 1))
    served.channel.close()
    silent.close()


def test_a_second_stream_with_the_same_token_ends_the_first(served: Served) -> None:
    with RawStream(served.channel.address, "t") as first:
        first.exchange(encode(frame_of(0)))
        with RawStream(served.channel.address, "t", answers=1) as second:
            assert read_answered(second.call.initial_metadata()) == 1
            first.outgoing.put(encode(frame_of(1)))
            with pytest.raises(grpc.RpcError):
                next(first.call)
            second.exchange(encode(frame_of(1)))
    assert served.handled == [0, 1]


@pytest.mark.parametrize("answers", [0, 3])
def test_a_client_with_other_answers_than_it_was_given_is_refused(
    served: Served, answers: int
) -> None:
    with RawStream(served.channel.address, "t") as raw:
        for step in range(2):
            raw.exchange(encode(frame_of(step)))
    with RawStream(served.channel.address, "t", answers=answers) as again:
        with pytest.raises(grpc.RpcError):
            again.exchange(encode(frame_of(2)))
        assert f"the client has {answers} answers in this session, but 2" in again.call.details()
    assert served.handled == [0, 1]


@pytest.mark.parametrize("connected", [True, False])
def test_a_refused_stream_does_not_keep_a_session_alive(connected: bool) -> None:
    """Break it: let the timer of a lost stream count only while no newer stream was tried."""
    served = Served(EchoHost(), reconnect_seconds=0.8)
    raw = RawStream(served.channel.address, "t")
    raw.exchange(encode(frame_of()))
    if not connected:
        raw.call.cancel()
        time.sleep(0.2)
    wrong = RawStream(served.channel.address, "t", answers=5)
    with wrong, pytest.raises(grpc.RpcError):
        wrong.exchange(encode(frame_of(1)))
    assert served.host.sessions["t"].closed.wait(5)
    assert "did not connect again" in served.host.sessions["t"].reason
    raw.__exit__()
    served.channel.close()


def test_a_damaged_frame_is_not_handled_and_the_session_goes_on(served: Served) -> None:
    """Break it: refuse the client."""
    with RawStream(served.channel.address, "t") as raw:
        raw.exchange(encode(frame_of(0)))
        damaged = bytearray(encode(frame_of(1)))
        damaged[-1] ^= 1
        with pytest.raises(grpc.RpcError):
            raw.exchange(bytes(damaged))
        assert raw.call.code() is grpc.StatusCode.DATA_LOSS
    with RawStream(served.channel.address, "t", answers=1) as again:
        again.exchange(encode(frame_of(1)))
    assert served.handled == [0, 1]


def test_a_refusal_is_told_again_to_a_client_that_has_missed_it() -> None:
    def refuse(frame: Frame) -> Frame:
        mine.proxy.cut_all()
        time.sleep(0.3)
        raise ChannelError("Refused: no.")

    mine = Served(EchoHost(refuse))
    with mine.stream() as stream, pytest.raises(ChannelError, match=r"Refused: no\."):
        stream.exchange(frame_of())
    assert mine.host.sessions["t"].reason == "Refused: no."
    mine.channel.close()


def test_a_client_that_fails_says_so_and_nobody_waits_for_it() -> None:
    """Break it: only close the connection; the server then waits for another one."""
    served = Served(EchoHost(), reconnect_seconds=60.0)

    def fail() -> None:
        with served.stream() as stream:
            stream.exchange(frame_of())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert served.host.sessions["t"].closed.wait(2)
    assert served.host.sessions["t"].reason == "the client gave up before it had finished"
    assert served.handled == [0]
    served.channel.close()


def test_a_session_that_the_host_ends_is_not_resumed(served: Served) -> None:
    began = time.monotonic()
    with served.stream(reconnect=30.0) as stream:
        stream.exchange(frame_of())
        served.host.sessions["t"].on_revoke("ended")
        with pytest.raises(ChannelError, match="round is over"):
            stream.exchange(frame_of(1))
    assert time.monotonic() - began < 5


def test_what_opens_a_stream_is_compared_with_its_checksum() -> None:
    opening = Opening("token", 7, True)
    assert Opening.of(opening.to_metadata()) == opening
    ((key, text),) = opening.to_metadata()
    for place in range(len(text)):
        damaged = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        with pytest.raises(DamagedError, match=KEY):
            Opening.of([(key, damaged)])
    for metadata in ([], [(key, "")], [("other", text)], [(key, b"\xff")]):
        with pytest.raises(DamagedError):
            Opening.of(metadata)


def test_how_much_was_answered_is_compared_with_its_checksum() -> None:
    ((key, text),) = answered_metadata(12)
    assert read_answered([(key, text)]) == 12
    for damaged in ("", "12", text[:-1] + "3", text + "0", text.replace("12", "-1")):
        assert read_answered([(key, damaged)]) is None
    assert read_answered([]) is None


@pytest.mark.parametrize("text", FORMS)
def test_an_opening_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(DamagedError):
        Opening.of([(KEY, f"{xxh3_64_hexdigest(text.encode())} {text}")])


def test_more_streams_than_there_are_threads_are_refused_and_not_left_waiting() -> None:
    """Break it: leave out `maximum_concurrent_rpcs`."""
    channel: GrpcChannel = serve_on(EchoHost(), max_streams=2)
    streams = [RawStream(channel.address, str(number)) for number in range(2)]
    for stream in streams:
        stream.exchange(encode(frame_of()))
    began = time.monotonic()
    third = stream_to(channel.address, "third", step_timeout=20.0)
    with third, pytest.raises(ChannelError, match=r"limit|exhausted"):
        third.exchange(frame_of())
    assert time.monotonic() - began < 5
    for stream in streams:
        stream.__exit__()
    channel.close()


def test_no_thread_or_timer_outlives_the_channel(served: Served) -> None:
    with RawStream(served.channel.address, "t") as raw:
        raw.exchange(encode(frame_of()))
    wait_until(lambda: Counter(map(type, threading.enumerate()))[threading.Timer] == 1)
    served.channel.close()
    wait_until(lambda: Counter(map(type, threading.enumerate()))[threading.Timer] == 0)
