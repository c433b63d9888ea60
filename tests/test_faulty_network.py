"""A run over a network that breaks a thousand times ends as one over a quiet network."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit import Config, Result, client_app, inprocess, simulate
from fedsplit.channel import grpc_stream
from fedsplit.channel.endpoint import Channel, SessionHost
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.channel.tls import ClientTls, ServerTls
from fedsplit.fields import BYTE_KEYS
from fedsplit.serving import Engine
from tests.channel.certificates import Certificates
from tests.channel.proxy import KINDS, FaultyProxy
from tests.conftest import TINY, Run, distance, weights

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon: on such a network a frame may need thirty tries, each after a longer wait.

    Waits of up to 2 seconds would use up `channel.reconnect-timeout`, and take three minutes.
    """
    monkeypatch.setattr(grpc_stream, "_LONGEST_WAIT_SECONDS", 0.05)


class ProxiedChannel:
    """The channel over gRPC, which clients reach through a proxy only."""

    def __init__(
        self, host: SessionHost, config: Config, tls: ServerTls | None, **faults: object
    ) -> None:
        self._channel = GrpcChannel(
            host,
            address="127.0.0.1:0",
            max_streams=64,
            tls=tls,
            reconnect_seconds=config.channel.reconnect_timeout,
        )
        self.proxy = FaultyProxy(self._channel.address, **faults)  # type: ignore[arg-type]
        self.address = self.proxy.address

    def close(self) -> None:
        self._channel.close()
        self.proxy.close()


def shaken_run(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    keys: dict[str, object],
    made: Certificates | None = None,
    **faults: object,
) -> tuple[Result, FaultyProxy]:
    """Make a run of TINY whose clients reach the split server through a faulty network.

    With certificates, over mutual TLS.
    """
    channels: list[ProxiedChannel] = []

    def open_channel(host: SessionHost, config: Config) -> Channel:
        tls = None if made is None else made.server(mutual=True)
        channels.append(ProxiedChannel(host, config, tls, **faults))
        return channels[-1]

    def client_tls(*_: object) -> ClientTls | None:
        return None if made is None else made.client("client-0")

    monkeypatch.setattr(client_app, "client_tls", client_tls)

    monkeypatch.setattr(inprocess, "IN_PROCESS", Engine("inprocess", open_channel))
    result = simulate({**TINY, "output-dir": str(folder), "max-concurrent-clients": 4, **keys})
    return result, channels[0].proxy


def assert_unshaken(quiet: Result, shaken: Result) -> None:
    assert [row["failed_clients"] for row in shaken.rounds] == [[]] * len(quiet.rounds)
    assert distance(weights(quiet), weights(shaken)) == 0.0
    for key in BYTE_KEYS:
        if key != "resent_bytes":
            assert shaken.summary[key] == quiet.summary[key]
    assert quiet.summary["resent_bytes"] == 0 < shaken.summary["resent_bytes"]


def test_a_thousand_faults_change_neither_weights_nor_bytes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: handle a frame again that was answered, or do not compare checksums."""
    kinds = [kind for kind in KINDS for _ in range(1 if kind == "stall" else 5)]
    keys: dict[str, object] = {"num-server-rounds": 4, "data.max-train-samples": 160}
    quiet = run(**keys)
    shaken, proxy = shaken_run(
        *(monkeypatch, tmp_path),
        {**keys, "channel.step-timeout": 0.4, "channel.reconnect-timeout": 60.0},
        mean_bytes=19_000.0,
        seed=1,
        kinds=kinds,
    )
    assert_unshaken(quiet, shaken)
    assert proxy.faults.total() > 1000
    assert min(proxy.faults[kind] for kind in KINDS) > 20


@pytest.mark.parametrize(
    ("strategy", "topology"),
    [
        ("sflv2", "vanilla"),
        ("sflv3", "u-shaped"),
        ("sequential", "vanilla"),
        ("parallel", "u-shaped"),
    ],
)
def test_no_step_is_taken_twice_or_lost_under_any_rule(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, topology: str
) -> None:
    keys: dict[str, object] = {"strategy": strategy, "split.topology": topology}
    quiet = run(**keys)
    # Where clients wait for each other, only a connection that is seen to be dead is given up:
    # after three eighths of the time that there is to connect again.
    shaken, proxy = shaken_run(
        *(monkeypatch, tmp_path),
        {**keys, "channel.reconnect-timeout": 8.0},
        mean_bytes=60_000.0,
        seed=2,
        kinds=("cut", "cut", "flip", "split", "duplicate"),
    )
    assert_unshaken(quiet, shaken)
    assert min(proxy.faults[kind] for kind in ("cut", "flip", "split", "duplicate")) > 5


def test_a_network_that_breaks_tls_is_not_taken_for_a_stranger(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every harmed byte ends a TLS connection, also in its handshake.

    Break it: make what `handshake_fault` says final at any time and at once.
    """
    keys: dict[str, object] = {"strategy": "sflv1", "num-server-rounds": 2}
    quiet = run(**keys)
    shaken, proxy = shaken_run(
        *(monkeypatch, tmp_path / "run"),
        {**keys, "channel.step-timeout": 2.0, "channel.reconnect-timeout": 60.0},
        Certificates(tmp_path / "certificates"),
        mean_bytes=25_000.0,
        seed=3,
        kinds=("cut", "flip", "split", "duplicate"),
    )
    assert_unshaken(quiet, shaken)
    assert proxy.faults.total() > 200
