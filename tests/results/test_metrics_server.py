from __future__ import annotations

import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fedsplit.certificates import make_certificates
from fedsplit.results import metrics_server
from fedsplit.results.metrics_server import MetricsServer


def page(environ: object, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"numbers"]


@pytest.fixture(params=["http", "https"])
def served(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[MetricsServer, Callable[[], bytes]]]:
    """A server, and a scrape of it."""
    files: list[str] = []
    context = None
    if request.param == "https":
        make_certificates(tmp_path, hosts=["127.0.0.1"])
        files = [str(tmp_path / "server.pem"), str(tmp_path / "server.key")]
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    server = MetricsServer("127.0.0.1", 0, page, *files)

    def scrape() -> bytes:
        url = f"{request.param}://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(url, timeout=3, context=context) as answer:
            found: bytes = answer.read()
            return found

    yield server, scrape
    threading.Thread(target=server.close, daemon=True).start()


def test_silent_connections_hold_up_neither_a_scrape_nor_the_end(
    served: tuple[MetricsServer, Callable[[], bytes]],
) -> None:
    """One of them made a run that was over wait for as long as it stayed.

    Break it: let the handshake take place on connect.
    """
    server, scrape = served
    silent = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(5)]
    time.sleep(0.2)
    assert scrape() == b"numbers"
    closing = threading.Thread(target=server.close, daemon=True)
    closing.start()
    closing.join(5.0)
    assert not closing.is_alive()
    for each in silent:
        each.close()


def test_connections_are_bounded_and_silent_ones_are_closed(
    served: tuple[MetricsServer, Callable[[], bytes]],
) -> None:
    """Break it: start a thread for each connection, or wait for ever."""
    server, scrape = served
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(60)]
    time.sleep(0.3)
    assert threading.active_count() - before <= 32
    deadline = time.monotonic() + 20.0
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert threading.active_count() <= before
    assert scrape() == b"numbers"
    for each in silent:
        each.close()


def test_a_connection_that_says_a_byte_now_and_then_is_closed(
    served: tuple[MetricsServer, Callable[[], bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 of them kept everybody else out. Break it: limit the silence only."""
    monkeypatch.setattr(metrics_server, "LONGEST_SECONDS", 1.0)
    server, scrape = served
    slow = socket.create_connection(("127.0.0.1", server.server_port))
    if isinstance(server.socket, ssl.SSLSocket):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        slow = context.wrap_socket(slow)
    with slow:
        slow.sendall(b"GET /")
        assert said_for(slow, seconds=8.0) < 8.0
    assert scrape() == b"numbers"


def said_for(slow: socket.socket, seconds: float) -> float:
    """Send a byte now and then, and return for how long that is possible."""
    began = time.monotonic()
    with suppress(OSError):
        while time.monotonic() - began < seconds:
            slow.sendall(b"a")
            time.sleep(0.1)
    return time.monotonic() - began
