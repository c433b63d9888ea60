"""The channel over gRPC, the client's end: a session that goes on when a stream breaks."""

from __future__ import annotations

import random
import time
from queue import SimpleQueue
from typing import Self, cast

import grpc

from fedsplit.channel.codec import decode, encode
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import METHOD, SERVICE, keepalive_options
from fedsplit.channel.opening import ANSWERED_KEY, FINAL_KEY, Opening
from fedsplit.channel.watchdog import Watchdog
from fedsplit.errors import ChannelError, DamagedError

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 2.0
_GOODBYE_SECONDS = 2.0


class _BrokenError(Exception):
    """A stream that has broken; another one may go on."""


class GrpcStream:
    """The client's end of a session (see `fedsplit.channel.connect.connect`)."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        step_timeout: float,
        max_frame_bytes: int,
        reconnect_timeout: float,
    ) -> None:
        self._address = address
        self._token = token
        self._step_timeout = step_timeout
        self._max_frame_bytes = max_frame_bytes
        self._reconnect_timeout = reconnect_timeout
        self._answers = 0
        self._over: ChannelError | None = None
        self._too_long = ""
        self._random = random.Random()
        self._call: _Call | None = self._open(sends_again=False)

    def exchange(self, frame: Frame) -> Frame:
        """Send a frame and wait for its answer, over as many streams as it takes.

        Raises
        ------
        ChannelError
            If the server refuses it, or no stream to the server lasts.
        """
        if self._over is not None:
            raise self._over
        data = encode(frame)
        wait = _FIRST_WAIT_SECONDS
        gives_up_at: float | None = None
        while True:
            try:
                answer = self._try(data, frame.step)
            except _BrokenError as broken:
                self._hang_up()
                now = time.monotonic()
                gives_up_at = gives_up_at or now + self._reconnect_timeout
                pause = wait * self._random.uniform(0.5, 1.0)
                if now + pause >= gives_up_at:
                    self._over = ChannelError(str(broken))
                    raise self._over from None
                time.sleep(pause)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            except ChannelError as error:
                self._over = error
                raise
            else:
                self._answers += 1
                return answer

    def _try(self, data: bytes, step: int) -> Frame:
        """Exchange a frame on the stream that is there, or on one that follows it."""
        call = self._call
        try:
            if call is None:
                call = self._call = self._open(sends_again=True)
                lacks_answer = call.answered() > self._answers
            else:
                lacks_answer = False
            if not lacks_answer:
                call.send(data)
            return decode(call.receive())
        except StopIteration:
            raise _BrokenError(
                f"The split server at {self._address} ended the stream before step {step} was "
                "answered."
            ) from None
        except DamagedError as error:
            raise _BrokenError(f"Step {step}: {error}") from None
        except grpc.RpcError as error:
            assert call is not None
            raise self._explained(call, error, step) from None

    def _open(self, *, sends_again: bool) -> _Call:
        opening = Opening(self._token, self._answers, sends_again)
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", self._max_frame_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),  # else its waits would outlive the call
            *(keepalive := keepalive_options(self._reconnect_timeout)),
            # How long to wait for the first words of a server.
            ("grpc.min_reconnect_backoff_ms", dict(keepalive)["grpc.keepalive_time_ms"]),
        ]
        return _Call(self._address, opening, options, self._step_timeout)

    def _explained(
        self, call: _Call, error: grpc.RpcError, step: int
    ) -> ChannelError | _BrokenError:
        """Return why a stream has ended, as an error that says whether another one can go on."""
        if call.expired:
            return _BrokenError(
                f"The split server at {self._address} did not answer step {step} within "
                f"channel.step-timeout = {self._step_timeout:g} seconds."
            )
        ended = cast(grpc.Call, error)
        details = ended.details() or ""
        if ended.code() is grpc.StatusCode.CANCELLED:
            details = "the round is over, or the server is closing."
        said = f"The split server at {self._address} ended step {step}: {details}"
        if FINAL_KEY in dict(ended.trailing_metadata() or ()) or self._too_long == said:
            return ChannelError(said)
        # Once may be a length that was changed on its way; twice the same is the frame's own.
        self._too_long = said if "larger than max" in details else ""
        return _BrokenError(said)

    def _hang_up(self) -> None:
        if self._call is not None:
            self._call.close(cancel=True)
            self._call = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        if self._call is not None:
            if kind is not None:  # or the server would wait for this client to connect again
                self._call.say_goodbye(encode(Frame(Kind.ABANDON, 0)))
            self._call.close(cancel=kind is not None)
            self._call = None


class _Call:
    """One stream of a session."""

    def __init__(
        self,
        address: str,
        opening: Opening,
        options: list[tuple[str, int]],
        step_timeout: float,
    ) -> None:
        self._frames: SimpleQueue[bytes | None] = SimpleQueue()
        self._channel = grpc.insecure_channel(address, options=options)
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            f"/{SERVICE}/{METHOD}"
        )
        self._call = method(iter(self._frames.get, None), metadata=opening.to_metadata())
        self._watchdog = Watchdog(step_timeout, self._call.cancel)

    @property
    def expired(self) -> bool:
        """Whether an answer did not come in time."""
        return self._watchdog.expired

    def answered(self) -> int:
        """Return how many frames of the session the server has answered.

        Raises
        ------
        grpc.RpcError, StopIteration
            If the stream ends instead.
        """
        with self._watchdog:
            metadata = dict(self._call.initial_metadata() or ())
            told = str(metadata.get(ANSWERED_KEY, ""))
            if not told.isdecimal():
                next(self._call)
                raise StopIteration
            return int(told)

    def send(self, data: bytes) -> None:
        """Send a frame."""
        self._frames.put(data)

    def receive(self) -> bytes:
        """Wait for the next answer.

        Raises
        ------
        grpc.RpcError, StopIteration
            If the stream ends instead.
        """
        with self._watchdog:
            return next(self._call)

    def say_goodbye(self, data: bytes) -> None:
        """Send a last frame, and wait a moment until the server has ended the stream."""
        self._watchdog.stop()
        self._frames.put(data)
        self._frames.put(None)
        watchdog = Watchdog(_GOODBYE_SECONDS, self._call.cancel)
        with watchdog:
            self._call.code()
        watchdog.stop()

    def close(self, *, cancel: bool) -> None:
        """End the stream, normally or at once."""
        self._watchdog.stop()
        self._frames.put(None)  # half-close: lets the call end normally
        if cancel:
            self._call.cancel()
        self._channel.close()
