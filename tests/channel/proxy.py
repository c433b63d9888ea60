"""A TCP proxy on loopback that harms what passes through it, at drawn bytes."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

KINDS = ("cut", "stall", "split", "delay", "duplicate", "flip")


class FaultyProxy:
    """Forwards connections to `target`, with a fault after every so many bytes.

    - cut: both directions end at once, with a reset
    - stall: nothing is forwarded any more in this direction
    - split: the next bytes go one at a time
    - delay: a pause
    - duplicate: some bytes are sent twice
    - flip: one bit is changed

    Parameters
    ----------
    target : str
        ``host:port``.
    mean_bytes : float
        Mean number of bytes between two faults of one direction; 0 = no faults.
    seed : int
        Of the places and kinds of faults.
    kinds : Sequence[str]
        The kinds that occur, each as often as it is named here.
    first : Sequence[Callable[[socket.socket], object]]
        What is done with the first connections, which are then closed and not forwarded.

    Attributes
    ----------
    faults : Counter[str]
        How many of each kind have occurred.
    """

    def __init__(
        self,
        target: str,
        *,
        mean_bytes: float = 0.0,
        seed: int = 0,
        kinds: Sequence[str] = KINDS,
        first: Sequence[Callable[[socket.socket], object]] = (),
    ) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._mean_bytes = mean_bytes
        self._kinds = kinds
        self._first = list(first)
        self._random = random.Random(seed)
        self.faults: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse and end all connections."""
        _shut(self._listener)
        self.cut_all()

    def cut_all(self) -> None:
        """End the connections that are open now."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for each in sockets:
            _shut(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                if self._first:
                    self._first.pop(0)(client)
                    _shut(client)
                    continue
                server = socket.create_connection(self._target)
            except OSError:
                return
            with self._lock:
                self._sockets += [client, server]
            for each in (client, server):  # before a direction can end and close both
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(one, other), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            left = self._draw()
            while data := source.recv(65536):
                while left < len(data):
                    sink.sendall(data[:left])
                    data, left = self._harm(data[left:], source, sink), self._draw()
                sink.sendall(data)
                left -= len(data)
        _shut(source)
        _shut(sink)

    def _draw(self) -> int:
        with self._lock:
            if not self._mean_bytes:
                return 2**62
            return 1 + int(self._random.expovariate(1 / self._mean_bytes))

    def _harm(self, data: bytes, source: socket.socket, sink: socket.socket) -> bytes:
        with self._lock:
            kind = self._random.choice(self._kinds)
            bit = self._random.randrange(8 * len(data))
            self.faults[kind] += 1
        if kind == "cut":
            raise ConnectionResetError
        if kind == "stall":
            while source.recv(65536):
                pass
            raise ConnectionResetError
        if kind == "split":
            for byte in data[:16]:
                sink.sendall(bytes([byte]))
            return data[16:]
        if kind == "delay":
            time.sleep(0.01)
        elif kind == "duplicate":
            sink.sendall(data[: bit // 8 + 1])
        else:
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            return bytes(flipped)
        return data


def _shut(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
