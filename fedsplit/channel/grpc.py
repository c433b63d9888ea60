"""The channel over gRPC, the server's end: a session for a participant's round.

gRPC carries frames as bytes, so that the ledger counts exactly what is sent and a malformed frame
is refused by our own checks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import grpc

from fedsplit.addresses import port_of, with_port
from fedsplit.channel import wire_pb2
from fedsplit.channel.endpoint import SessionHost
from fedsplit.channel.limits import connection_options
from fedsplit.channel.opening import FINAL_KEY, Opening, answered_metadata
from fedsplit.channel.resumable import ResumableSession
from fedsplit.channel.tls import ServerTls
from fedsplit.errors import ChannelError, DamagedError, FedSplitError, RunError, shorten

SERVICE = wire_pb2.DESCRIPTOR.services_by_name["SplitLearning"].full_name
METHOD = "Session"
_LONGEST_SILENCE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class GrpcChannel:
    """Serve `host` on an address.

    Parameters
    ----------
    host : SessionHost
        What answers the streams.
    address : str
        ``host:port`` to listen on; port 0 takes a free one.
    advertise : str
        ``host:port`` that clients connect to, where it is another one; port 0 = the one that is
        listened on.
    tls : ServerTls | None
        Certificates, with which the channel is encrypted.
    max_streams : int
        Maximum number of open streams; each holds a thread. More are refused.
    reconnect_seconds : float
        How long a client whose stream broke can connect again; 0 = it cannot.

    Raises
    ------
    ChannelError
        If the server cannot listen on the address, or this process may not open enough files.
    ConfigError
        If a certificate is not what it must be, or not for the host that clients connect to.
    """

    def __init__(
        self,
        host: SessionHost,
        *,
        address: str,
        advertise: str = "",
        tls: ServerTls | None = None,
        max_streams: int,
        reconnect_seconds: float = 0.0,
    ) -> None:
        self._host = host
        self._reconnect_seconds = reconnect_seconds
        self._sessions: dict[str, ResumableSession] = {}
        self._sessions_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(max_streams, thread_name_prefix="fedsplit-stream")
        self._server = grpc.server(
            self._threads,
            options=[
                ("grpc.so_reuseport", 0),  # or a second server would silently share the port
                ("grpc.max_receive_message_length", host.max_frame_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.http2.max_ping_strikes", 0),
                *keepalive_options(reconnect_seconds),
                *connection_options(max_streams),
            ],
            maximum_concurrent_rpcs=max_streams,
        )
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self._serve
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
        )
        if tls is not None:
            tls.identity.check_names(advertise or address)
        port = self._listen(address, tls)
        # Without TLS a client of "localhost" could reach another program's port on [::1].
        known = address if tls else address.replace("localhost:", "127.0.0.1:")
        self.address = with_port(advertise or known, port)
        self._server.start()

    def _listen(self, address: str, tls: ServerTls | None) -> int:
        """Listen; return the port."""
        # "localhost" is two addresses, and gRPC accepts it if only one is free.
        listened = address.replace("localhost:", "127.0.0.1:")
        try:
            if tls is None:
                port = self._server.add_insecure_port(listened)
            else:
                port = self._server.add_secure_port(listened, tls.credentials())
        except RuntimeError:
            port = 0
        if not port:
            raise ChannelError(
                f"The split server cannot listen on channel.address = '{address}' because port "
                f"{port_of(address)} is in use or not permitted, or the host is not one of this "
                "machine. Stop the process that uses the port, or set port 0 for a free one."
            )
        return port

    def close(self) -> None:
        """End every stream and stop listening."""
        self._server.stop(grace=None).wait()
        self._threads.shutdown(wait=False)  # gRPC does not do it
        for session in self._sessions.values():
            session.stop_timer()

    def _serve(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        admitted = self._admit(context)
        if admitted is None:
            return
        session, stream, lacking, again = admitted
        try:
            if lacking is not None:
                yield lacking
            yield from _answers(session, stream, frames, again=again)
        except grpc.RpcError:  # the client has gone
            return
        except DamagedError as error:
            session.lost(stream)
            context.abort(grpc.StatusCode.DATA_LOSS, str(error))
        except ChannelError as error:
            session.refuse(error)
            _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, error)
        except FedSplitError as error:  # of this machine, such as a full disk
            session.refuse(error)
            _refuse(context, grpc.StatusCode.INTERNAL, error)
        except Exception as error:
            _log.exception("The split server failed while it answered a frame")
            failure = RunError(f"The split server failed: {shorten(repr(error))}")
            session.refuse(failure)
            _refuse(context, grpc.StatusCode.INTERNAL, failure)
        finally:
            # Here, not in a callback of gRPC: those run on the one thread that moves the frames
            # of all streams.
            session.lost(stream)

    def _admit(
        self, context: grpc.ServicerContext
    ) -> tuple[ResumableSession, int, bytes | None, bool] | None:
        """Admit a stream: its session, its number, and the answer that its client lacks.

        Lastly, whether the client's next frame was sent before. None if the client has gone.
        """
        try:
            opening = Opening.of(context.invocation_metadata())
            session = self._session_of(opening.token)
            stream, answered = session.attach(context.cancel)
            try:
                context.send_initial_metadata(answered_metadata(answered))
            except grpc.RpcError:
                session.lost(stream)
                return None
            lacking = session.settle(self._host, opening, stream, answered)
        except DamagedError as error:
            context.abort(grpc.StatusCode.DATA_LOSS, str(error))
        except FedSplitError as error:
            _refuse(context, grpc.StatusCode.UNAUTHENTICATED, error)
        return session, stream, lacking, opening.sends_again and lacking is None

    def _session_of(self, token: str) -> ResumableSession:
        """Return the session of a token; unknown tokens get one that the host refuses."""
        with self._sessions_lock:
            found = self._sessions.get(token)
            if found is None:
                self._forget_sessions_of_other_rounds()
                found = ResumableSession(self._reconnect_seconds)
                if self._host.knows(token):
                    self._sessions[token] = found
            return found

    def _forget_sessions_of_other_rounds(self) -> None:
        """Forget the last answers of sessions that have ended, for clients that may ask again.

        In an open round, one may still be without the answer to its last frame.
        """
        for token, session in list(self._sessions.items()):
            if session.ended and not self._host.knows(token):
                del self._sessions[token]


def silence_seconds(reconnect_seconds: float) -> float:
    """Return how long a connection may be silent before it counts as dead, or is asked.

    A quarter of the time that there is to connect again: a network that has killed one connection
    may well kill the next. At most 10 seconds.
    """
    longest = _LONGEST_SILENCE_SECONDS
    return min(longest, reconnect_seconds / 4) if reconnect_seconds else longest


def keepalive_options(reconnect_seconds: float) -> list[tuple[str, int]]:
    """Return the options with which either end finds out that a silent connection is dead."""
    interval = silence_seconds(reconnect_seconds)
    return [
        ("grpc.keepalive_time_ms", int(interval * 1000)),
        ("grpc.keepalive_timeout_ms", int(interval * 500)),
        ("grpc.http2.ping_timeout_ms", int(interval * 500)),
        ("grpc.http2.max_pings_without_data", 0),  # a step may take long
        ("grpc.http2.min_ping_interval_without_data_ms", int(interval * 500)),
    ]


def _answers(
    session: ResumableSession, stream: int, frames: Iterator[bytes], *, again: bool
) -> Iterator[bytes]:
    for data in () if session.ended else frames:
        answer = session.handle(stream, data, again=again)
        if answer is None:
            return
        again = False
        yield answer
        if session.ended:
            return  # or a client that does not close its stream would keep a thread


def _refuse(context: grpc.ServicerContext, code: grpc.StatusCode, error: FedSplitError) -> NoReturn:
    """End a stream for a reason that another try would meet too."""
    context.set_trailing_metadata(((FINAL_KEY, "1"),))
    context.abort(code, str(error))
