"""The channel over gRPC: one bidirectional stream for a participant's round.

gRPC carries frames as bytes, so that the ledger counts exactly what is sent and a malformed frame
is refused by our own checks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Self, cast

import grpc

from fedsplit.channel import wire_pb2
from fedsplit.channel.codec import decode, encode
from fedsplit.channel.endpoint import Session, SessionHost
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.watchdog import Watchdog
from fedsplit.errors import ChannelError, FedSplitError, shorten

_SERVICE = wire_pb2.DESCRIPTOR.services_by_name["SplitLearning"].full_name
_METHOD = "Session"
_TOKEN = "fedsplit-token"
_log = logging.getLogger(__name__)


class GrpcChannel:
    """Serve `host` on a loopback address.

    Parameters
    ----------
    host : SessionHost
        What answers the streams.
    address : str
        ``host:port``; port 0 takes a free one.
    max_streams : int
        Maximum number of open streams; each holds a thread.

    Raises
    ------
    ChannelError
        If the server cannot listen on the address.
    """

    def __init__(self, host: SessionHost, *, address: str, max_streams: int) -> None:
        self._host = host
        self._threads = ThreadPoolExecutor(max_streams, thread_name_prefix="fedsplit-stream")
        self._server = grpc.server(
            self._threads,
            options=[
                ("grpc.so_reuseport", 0),  # or a second server would silently share the port
                ("grpc.max_receive_message_length", host.max_frame_bytes),
                ("grpc.max_send_message_length", -1),
            ],
        )
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self._serve
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),)
        )
        name, _, port = address.rpartition(":")
        if name == "localhost":  # two addresses, and gRPC accepts it if only one is free
            name = "127.0.0.1"
        try:
            bound = self._server.add_insecure_port(f"{name}:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise ChannelError(
                f"The split server cannot listen on channel.address = '{address}' because port "
                f"{port} is in use or not permitted. Stop the process that uses it, or set port 0 "
                "for a free port."
            )
        self.address = f"{name}:{bound}"
        self._server.start()

    def close(self) -> None:
        """End every stream and stop listening."""
        self._server.stop(grace=None).wait()
        self._threads.shutdown(wait=False)  # gRPC does not do it

    def _serve(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        token = dict(context.invocation_metadata()).get(_TOKEN, "")
        try:
            session = self._host.open(str(token), context.cancel)
        except ChannelError as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        try:
            yield from _answers(session, frames)
        except grpc.RpcError:  # the client has gone
            return
        except ChannelError as error:
            session.close(str(error))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except FedSplitError as error:  # of this machine, such as a full disk
            session.close(str(error))
            context.abort(grpc.StatusCode.INTERNAL, str(error))
        except Exception as error:
            _log.exception("The split server failed while it answered a frame")
            session.close(f"the split server failed: {error!r}")
            context.abort(
                grpc.StatusCode.INTERNAL, f"The split server failed: {shorten(repr(error))}"
            )
        finally:
            # Here, not in a callback of gRPC: those run on the one thread that moves the frames
            # of all streams, and `close` waits for a step that is being computed.
            session.close("the client's stream ended early")


def _answers(session: Session, frames: Iterator[bytes]) -> Iterator[bytes]:
    for data in frames:
        session.traffic.uplink_bytes += len(data)
        answer = session.handle(decode(data))
        encoded = encode(answer)
        session.traffic.downlink_bytes += len(encoded)
        yield encoded
        if answer.kind is Kind.FINISHED:
            return  # or a client that does not close its stream would keep a thread


class GrpcStream:
    """The client's end of a stream (see `fedsplit.channel.connect.connect`)."""

    def __init__(
        self, address: str, token: str, *, step_timeout: float, max_frame_bytes: int
    ) -> None:
        self._address = address
        self._step_timeout = step_timeout
        self._frames: SimpleQueue[bytes | None] = SimpleQueue()
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.enable_http_proxy", 0),
                ("grpc.max_receive_message_length", max_frame_bytes),
                ("grpc.max_send_message_length", -1),
            ],
        )
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            f"/{_SERVICE}/{_METHOD}"
        )
        self._call = method(iter(self._frames.get, None), metadata=((_TOKEN, token),))
        self._watchdog = Watchdog(step_timeout, self._call.cancel)

    def exchange(self, frame: Frame) -> Frame:
        """Send a frame and wait for its answer."""
        self._frames.put(encode(frame))
        try:
            with self._watchdog:
                data: bytes = next(self._call)
        except StopIteration:
            raise ChannelError(
                f"The split server at {self._address} ended the stream before step {frame.step} "
                "was answered."
            ) from None
        except grpc.RpcError as error:
            raise ChannelError(self._explain(error, frame.step)) from None
        return decode(data)

    def _explain(self, error: grpc.RpcError, step: int) -> str:
        if self._watchdog.expired:
            return (
                f"The split server at {self._address} did not answer step {step} within "
                f"channel.step-timeout = {self._step_timeout:g} seconds."
            )
        call = cast(grpc.Call, error)
        details = call.details()
        if call.code() is grpc.StatusCode.CANCELLED:
            details = "the round is over, or the server is closing."
        return f"The split server at {self._address} ended step {step}: {details}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        self._watchdog.stop()
        self._frames.put(None)  # half-close: lets the call end normally
        if kind is not None:
            self._call.cancel()
        self._channel.close()
