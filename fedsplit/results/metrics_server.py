"""An HTTP server for one page, which no stranger's silent connection holds up.

`prometheus_client` has one, whose TLS handshakes take place where connections are accepted: after
one that says nothing, it answers nobody and cannot be closed.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

SILENT_SECONDS = 5.0
"""How long a connection can say nothing, in its handshake and its request."""
LONGEST_SECONDS = 10.0
"""How long a connection lasts, also one that says a byte now and then."""
_MOST_CONNECTIONS = 32


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Answers every request from a thread of its own.

    Parameters
    ----------
    host, port : str, int
        Where it listens; port 0 takes a free one.
    application : WSGIApplication
        What answers.
    certificate, private_key : str
        PEM files, with which it speaks TLS; empty = it does not.

    Raises
    ------
    OSError
        If it cannot listen there, or a file cannot be used.
    """

    daemon_threads = True
    request_queue_size = 64  # with 5, a scrape behind strangers waits for TCP to try again

    def __init__(
        self,
        host: str,
        port: int,
        application: WSGIApplication,
        certificate: str = "",
        private_key: str = "",
    ) -> None:
        context = None
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(Path(certificate).expanduser(), Path(private_key).expanduser())
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Request)
        self.set_app(application)
        if context is not None:
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self._began: dict[socket.socket, float] = {}
        self._room = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        threading.Thread(target=self.serve_forever, name="fedsplit-metrics", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer a connection in a thread, or close it if there are too many."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer a connection."""
        self._began[request] = time.monotonic()
        try:
            super().process_request_thread(request, client_address)
        finally:
            del self._began[request]
            self._room.release()

    def service_actions(self) -> None:
        """End the connections that have lasted too long; the loop of the server calls it."""
        latest = time.monotonic() - LONGEST_SECONDS
        for request, began in list(self._began.items()):
            if began < latest:
                with suppress(OSError):  # it has just ended
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: what strangers send is not the run's affair."""

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()


class _Request(WSGIRequestHandler):
    timeout = SILENT_SECONDS

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(SILENT_SECONDS)
            self.request.do_handshake()
        super().setup()

    def log_message(self, *_: object) -> None:
        """Log nothing."""
