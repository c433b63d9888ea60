"""The channel over gRPC, the client's end: a session that goes on when a stream breaks."""

from __future__ import annotations

import random
import time
from queue import SimpleQueue
from typing import Self, cast

import grpc

from fedsplit.channel.codec import decode, encode
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import METHOD, SERVICE, keepalive_options, silence_seconds
from fedsplit.channel.handshake import handshake_fault
from fedsplit.channel.opening import FINAL_KEY, Opening, read_answered
from fedsplit.channel.tls import ClientTls
from fedsplit.channel.watchdog import Watchdog
from fedsplit.errors import ChannelError, DamagedError, UnreachableError

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
        ask_again_after: float | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self._address = address
        self._tls = tls
        self._credentials = None if tls is None else tls.credentials()
        self._token = token
        self._step_timeout = step_timeout
        self._ask_again_after = step_timeout
        if reconnect_timeout and ask_again_after is not None:
            self._ask_again_after = min(step_timeout, ask_again_after)
        self._max_frame_bytes = max_frame_bytes
        self._reconnect_timeout = reconnect_timeout
        self._opening_seconds = silence_seconds(reconnect_timeout)
        self._answers = 0
        self._over: ChannelError | None = None
        self._too_long = ""
        self._call: _Call | None = self._open(sends_again=False)
        self._call.connected = True  # nobody asks: the first frame is sent at once

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
        patience = _Patience(self._reconnect_timeout, self._step_timeout)
        while True:
            began = time.monotonic()
            try:
                answer = self._try(data, frame.step)
            except _BrokenError as broken:
                call, seconds = self._call, time.monotonic() - began
                assert call is not None
                self._hang_up()
                if not patience.lasts(seconds, connected=call.connected, silent=call.expired):
                    self._over = UnreachableError(str(broken))
                    raise self._over from None
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
            lacks_answer = False
            if call is None:
                call = self._call = self._open(sends_again=True)
                lacks_answer = call.answered(self._opening_seconds, step) > self._answers
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
        return _Call(self._address, self._credentials, opening, options, self._ask_again_after)

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
        server = f"The split server at {self._address}"
        # A session that has had an answer has been let in: what breaks it later is the network.
        unanswered = self._answers == 0 and ended.code() is grpc.StatusCode.UNAVAILABLE
        if self._tls is not None and unanswered:
            fault = handshake_fault(self._address, self._tls)
            if fault is not None:
                return UnreachableError(f"{server} {fault}")
        said = f"{server} ended step {step}: {details}"
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


class _Patience:
    """How long a client tries to get the answer to one frame.

    Time without a stream is limited by `reconnect_timeout`. Time on streams that were admitted does
    not count as such: otherwise a frame that is lost on a living connection, after another break,
    would leave no time to connect again.
    """

    def __init__(self, reconnect_timeout: float, step_timeout: float) -> None:
        self._away_left = reconnect_timeout
        self._connected_left = max(reconnect_timeout, step_timeout)
        self._wait = _FIRST_WAIT_SECONDS
        self._random = random.Random()

    def lasts(self, seconds: float, *, connected: bool, silent: bool) -> bool:
        """Count a try that has failed after so many seconds, and pause; False = give up.

        There is no pause after a stream that was `connected` and `silent`: nothing is overloaded.
        """
        if connected:
            self._connected_left -= seconds
        else:
            self._away_left -= seconds
        if connected and silent:
            return self._connected_left > 0
        pause = self._wait * self._random.uniform(0.5, 1.0)
        self._away_left -= pause
        if self._connected_left <= 0 or self._away_left <= 0:
            return False
        time.sleep(pause)
        self._wait = min(2 * self._wait, _LONGEST_WAIT_SECONDS)
        return True


class _Call:
    """One stream of a session.

    Attributes
    ----------
    connected : bool
        Whether the server has admitted it.
    """

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None,
        opening: Opening,
        options: list[tuple[str, int]],
        seconds: float,
    ) -> None:
        self.connected = False
        self._frames: SimpleQueue[bytes | None] = SimpleQueue()
        self._channel = (
            grpc.insecure_channel(address, options=options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options=options)
        )
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            f"/{SERVICE}/{METHOD}"
        )
        self._call = method(iter(self._frames.get, None), metadata=opening.to_metadata())
        self._watchdog = Watchdog(seconds, self._call.cancel)

    @property
    def expired(self) -> bool:
        """Whether an answer did not come in time."""
        return self._watchdog.expired

    def answered(self, seconds: float, step: int) -> int:
        """Return how many frames of the session the server has answered, or is answering.

        Raises
        ------
        grpc.RpcError, StopIteration, _BrokenError
            If the stream ends instead, or the server does not say so within these seconds.
        """
        watchdog = Watchdog(seconds, self._call.cancel)
        with watchdog:
            answered = read_answered(self._call.initial_metadata() or ())
        watchdog.stop()
        if watchdog.expired:
            raise _BrokenError(
                f"The split server did not admit another stream for step {step} within "
                f"{seconds:g} seconds."
            )
        if answered is None:
            if self._call.is_active():
                raise _BrokenError(f"Step {step}: what admits a stream was changed on its way.")
            next(self._call)  # raises why it ended
            raise StopIteration
        self.connected = True
        return answered

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
