"""Toy ends of the channel: a host that echoes, and raw gRPC that knows nothing of our codec."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Self

import grpc

from fedsplit.channel.endpoint import OnRevoke, nothing
from fedsplit.channel.frame import Frame
from fedsplit.channel.ledger import Traffic
from fedsplit.channel.opening import Opening
from fedsplit.errors import ChannelError

METHOD = "/fedsplit.SplitLearning/Session"


class EchoSession:
    """Answers each frame with itself, and records the frames."""

    def __init__(self, answer: Callable[[Frame], Frame], on_revoke: OnRevoke) -> None:
        self.traffic = Traffic()
        self.on_revoke = on_revoke
        self.frames: list[Frame] = []
        self.closed = threading.Event()
        self.reason = ""
        self._answer = answer

    def handle(self, frame: Frame) -> Frame:
        self.frames.append(frame)
        return self._answer(frame)

    def close(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.closed.set()


class EchoHost:
    """Knows any token but "unknown", or only the `tokens` of the round that is open."""

    def __init__(
        self,
        answer: Callable[[Frame], Frame] = lambda frame: frame,
        *,
        max_frame_bytes: int = 4096,
    ) -> None:
        self.max_frame_bytes = max_frame_bytes
        self.sessions: dict[str, EchoSession] = {}
        self.tokens: set[str] | None = None
        self._answer = answer

    def knows(self, token: str) -> bool:
        return token != "unknown" if self.tokens is None else token in self.tokens

    def open(self, token: str, on_revoke: OnRevoke = nothing) -> EchoSession:
        if token == "unknown":
            raise ChannelError("Refused: the token is unknown.")
        self.sessions[token] = EchoSession(self._answer, on_revoke)
        return self.sessions[token]


class RawStream:
    """A plain gRPC client that sends and receives bytes."""

    def __init__(self, address: str, token: str, *, answers: int = 0) -> None:
        self.channel = grpc.insecure_channel(address)
        self.outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = self.channel.stream_stream(METHOD)
        self.call = method(
            iter(self.outgoing.get, None), metadata=Opening(token, answers).to_metadata()
        )

    def exchange(self, data: bytes) -> bytes:
        self.outgoing.put(data)
        return next(self.call)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.outgoing.put(None)
        self.channel.close()


class CountingProxy:
    """A gRPC server that forwards every message and counts its bytes."""

    def __init__(self, target: str) -> None:
        self.uplink_bytes = 0
        self.downlink_bytes = 0
        self.messages = 0
        self._target = target
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(16))
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self._forward
        )
        _, service, method = METHOD.split("/")
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _forward(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        token = Opening.of(context.invocation_metadata()).token
        with RawStream(self._target, token) as onward:
            while (data := _next(frames)) is not None:
                with self._lock:
                    self.uplink_bytes += len(data)
                    self.messages += 1
                try:
                    answer = onward.exchange(data)
                except grpc.RpcError:
                    context.abort(onward.call.code(), onward.call.details() or "")
                with self._lock:
                    self.downlink_bytes += len(answer)
                yield answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()


def _next(frames: Iterator[bytes]) -> bytes | None:
    try:
        return next(frames, None)
    except grpc.RpcError:  # the client is gone
        return None


def wait_until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Wait until a condition holds; fail after a timeout."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
