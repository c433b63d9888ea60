"""The channel off the machine: what TLS costs, and what strangers' connections cost.

Whole rounds of ten clients, with the split server behind gRPC in one process. In each repetition
all variants run in turn, so that a change of the machine's speed affects all: compare the ratios.

    GRPC_VERBOSITY=ERROR uv run python -m benchmarks.outside    # TLS, and 2,000 strangers
    uv run python -m benchmarks.outside --strangers 5000
    uv run python -m benchmarks.outside --quick             # only to check that it works
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import resource
import selectors
import socket
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from fedsplit import inprocess, simulate
from fedsplit.certificates import make_certificates
from fedsplit.serving import Engine, open_grpc

HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HALF_TLS_HELLO = b"\x16\3\1\2\0\1\0\1\xfc\3\3" + bytes(20)
"""The beginning of a ClientHello of 512 bytes (RFC 8446, section 4.1.2)."""
SETTINGS: Mapping[str, object] = {
    **{"strategy": "sflv1", "num-clients": 10, "fraction-evaluate": 0.0, "checkpoint-every": 0},
    "console": "quiet",
}


def round_seconds(keys: Mapping[str, object], folder: str) -> list[float]:
    """Make a run, and return the training time of each of its rounds but the first."""
    result = simulate({**SETTINGS, **keys, "output-dir": folder})
    assert all(not row["failed_clients"] for row in result.rounds), result.rounds
    return [row["train_seconds"] for row in result.rounds][1:] or [
        result.rounds[0]["train_seconds"]
    ]


def intrude(address: str, count: int, hello: bytes) -> None:
    """Keep so many connections open; half of them say hello. Closed ones are replaced at once."""
    host, _, port = address.rpartition(":")
    watched = selectors.DefaultSelector()

    def connect() -> None:
        with suppress(OSError):
            stranger = socket.create_connection((host, int(port)), timeout=5.0)
            if len(watched.get_map()) % 2:
                stranger.sendall(hello)
            stranger.setblocking(False)
            watched.register(stranger, selectors.EVENT_READ)

    while True:
        for _ in range(min(100, count - len(watched.get_map()))):
            connect()
        for key, _ in watched.select(timeout=0.2):
            stranger = key.fileobj
            assert isinstance(stranger, socket.socket)
            with suppress(BlockingIOError):
                try:
                    closed = not stranger.recv(4096)
                except ConnectionError:
                    closed = True
                if closed:
                    watched.unregister(stranger)
                    stranger.close()


@contextmanager
def strangers(address: str, count: int, hello: bytes) -> Iterator[None]:
    """Have another process connect to an address again and again."""
    process = multiprocessing.get_context("spawn").Process(
        target=intrude, args=(address, count, hello), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def free_address() -> str:
    """Return an address of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def add_row(table: Table, name: str, found: Sequence[float], base: Sequence[float]) -> None:
    """Add a variant: its median round, and its ratio to the first in each repetition."""
    ratios = [mine / other for mine, other in zip(found, base, strict=True)]
    table.add_row(
        name,
        f"{statistics.median(found):.2f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4, help="of each run; the first is left out")
    parser.add_argument("--strangers", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="only check that it works")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repetitions, arguments.rounds, arguments.strangers = 1, 1, 20
    logging.getLogger("flwr").setLevel(logging.ERROR)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    inprocess.IN_PROCESS = Engine("inprocess", open_grpc)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "certificates"
        make_certificates(made, hosts=["127.0.0.1"])
        tls: dict[str, object] = {
            "channel.certificate": str(made / "server.pem"),
            "channel.private-key": str(made / "server.key"),
            "channel.root-certificates": str(made / "ca.pem"),
        }
        crowd = f"{arguments.strangers:,} strangers"
        variants: dict[str, tuple[dict[str, object], int, bytes]] = {
            "no TLS": ({}, 0, b""),
            "TLS": (tls, 0, b""),
            f"no TLS, {crowd}": ({}, arguments.strangers, HTTP2_HELLO),
            f"TLS, {crowd}": (tls, arguments.strangers, HALF_TLS_HELLO),
            # They are refused at their first word, and come again as fast as they can: a flood.
            f"TLS, {crowd} without TLS": (tls, arguments.strangers, HTTP2_HELLO),
        }
        for _ in range(arguments.repetitions):
            for name, (own, count, hello) in variants.items():
                address = free_address()
                keys = {**own, "num-server-rounds": arguments.rounds, "channel.address": address}
                with strangers(address, count, hello):
                    seconds = round_seconds(keys, folder)
                found.setdefault(name, []).append(statistics.median(seconds))
    table = Table("channel", "round, s", "of the first", box=MARKDOWN)
    for name, values in found.items():
        add_row(table, name, values, found["no TLS"])
    console = Console(width=120, soft_wrap=True)
    console.print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, vit-nano, sflv1, ten clients, median (min-max) of "
        f"{arguments.repetitions} repetitions"
    )
    console.print(table)


if __name__ == "__main__":
    main()
