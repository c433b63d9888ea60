"""What Prometheus would scrape."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsplit import Config
from fedsplit.certificates import make_certificates
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.channel.grpc_stream import GrpcStream
from fedsplit.checking import check
from fedsplit.errors import ChannelError, ConfigError
from fedsplit.fields import ROW_KEYS, Metric
from fedsplit.results.sinks import Sinks
from tests.channel.hosts import EchoHost

ROW = {
    **dict.fromkeys(ROW_KEYS),
    "round": 1,
    "test_accuracy": 0.25,
    "num_participants": 4,
    "cut_uplink_bytes": 1000,
    "failed_clients": [{"client": 3, "reason": "lost"}],
}


def scraped(address: str, context: ssl.SSLContext | None = None) -> dict[str, float]:
    """Return the values of a scrape, as `said` names them."""
    scheme = "http" if context is None else "https"
    url = f"{scheme}://{address}/metrics"
    with urllib.request.urlopen(url, timeout=5, context=context) as answer:
        text = answer.read().decode()
    values = re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in values}


def sinks_at(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, rounds_done: int = 0, **keys: object
) -> tuple[Sinks, str]:
    caplog.set_level("INFO", "fedsplit")
    config = Config.from_flat({"sinks.prometheus": "127.0.0.1:0"} | keys)
    sinks = Sinks(config, tmp_path, rounds_done)
    found = re.search(r"Metrics: \w+://(\S+)/metrics", caplog.text)
    assert found is not None
    return sinks, found[1]


def test_rounds_are_scraped(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Bytes and failures add up over rounds; scores are those of the last round."""
    sinks, address = sinks_at(caplog, tmp_path)
    try:
        before = scraped(address)
        assert before["fedsplit_rounds"] == 3
        assert before["fedsplit_cut_uplink_bytes_total"] == 0
        assert "fedsplit_test_accuracy" not in before
        sinks.send_round(ROW)
        sinks.send_round(ROW | {"round": 2, "test_accuracy": 0.5, "cut_uplink_bytes": 11})
        after = scraped(address)
        assert after["fedsplit_round"] == 2
        assert after["fedsplit_num_participants"] == 4
        assert after["fedsplit_test_accuracy"] == 0.5
        assert after["fedsplit_cut_uplink_bytes_total"] == 1011
        assert after["fedsplit_failed_clients_total"] == 2
    finally:
        sinks.close()
    with pytest.raises(OSError, match="refused"):
        scraped(address)


def test_a_run_that_continues_counts_on(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Round 3 is made again. Break it: begin at 0, or count the round that does not count."""
    rows = [ROW | {"round": number, "test_accuracy": number / 10} for number in (1, 2, 3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rounds.jsonl").write_text(lines, encoding="utf-8")
    sinks, address = sinks_at(caplog, tmp_path, 2)
    try:
        continued = scraped(address)
        assert continued["fedsplit_round"] == 2
        assert continued["fedsplit_test_accuracy"] == 0.2
        assert continued["fedsplit_cut_uplink_bytes_total"] == 2000
        sinks.send_round(ROW | {"round": 3})
        after = scraped(address)
        assert after["fedsplit_cut_uplink_bytes_total"] == 3000
        assert after["fedsplit_failed_clients_total"] == 3
    finally:
        sinks.close()
    (tmp_path / "rounds.jsonl").write_text("damaged\n", encoding="utf-8")
    sinks_at(caplog, tmp_path, 2)[0].close()


def test_the_channel_is_counted_live(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Between two rounds, too. Break it: leave `METER.count` out of `_refuse`."""
    sinks, address = sinks_at(caplog, tmp_path)
    channel = GrpcChannel(EchoHost(), address="127.0.0.1:0", max_streams=4)
    frame = Frame(Kind.SMASHED_DATA, 0, {"cut.hidden": torch.arange(3.0)})
    try:
        before = scraped(address)

        def exchange(token: str) -> None:
            with GrpcStream(
                channel.address, token, step_timeout=9, max_frame_bytes=4096, reconnect_timeout=0
            ) as stream:
                stream.exchange(frame)

        exchange("t")
        with pytest.raises(ChannelError):
            exchange("unknown")
        after = scraped(address)
    finally:
        channel.close()
        sinks.close()
    rise = {key: after[key] - before[key] for key in after if "channel" in key}
    size = rise["fedsplit_channel_uplink_bytes_total"]
    assert size == rise["fedsplit_channel_downlink_bytes_total"] > 12
    assert rise["fedsplit_channel_steps_total"] == 1
    assert rise["fedsplit_channel_streams_total"] == 1
    assert rise["fedsplit_channel_refusals_total"] == 1


def test_off_loopback_it_is_encrypted(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    make_certificates(tmp_path, hosts=["127.0.0.1"])
    keys: dict[str, Any] = {
        "sinks.prometheus": "0.0.0.0:0",
        "channel.certificate": str(tmp_path / "server.pem"),
        "channel.private-key": str(tmp_path / "server.key"),
    }
    sinks, address = sinks_at(caplog, tmp_path, **keys)
    try:
        port = address.rpartition(":")[2]
        trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        assert scraped(f"127.0.0.1:{port}", trusting)["fedsplit_rounds"] == 3
    finally:
        sinks.close()


def test_in_the_clear_it_stays_on_loopback() -> None:
    with pytest.raises(ConfigError, match=r"sinks\.prometheus = '0\.0\.0\.0:1' is off loopback"):
        check(Config.from_flat({"sinks.prometheus": "0.0.0.0:1"}))


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"sinks.prometheus = '{address}' cannot be"):
            Sinks(Config.from_flat({"sinks.prometheus": address}), tmp_path)


def test_without_the_library_the_remedy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsplit.results.sinks.find_spec", lambda name: None)
    assert importlib.util.find_spec("prometheus_client") is not None
    with pytest.raises(ConfigError, match=r"pip install 'fedsplit\[prometheus\]'"):
        check(Config.from_flat({"sinks.prometheus": "127.0.0.1:0"}))


def test_no_declared_metric_has_the_name_of_a_number_that_is_served() -> None:
    """Break it: refuse the keys of built-in fields only; /metrics then has a name twice."""
    pytest.importorskip("prometheus_client")
    from fedsplit.results.prometheus import _Numbers

    served = _Numbers(Config())
    served.take(ROW)
    names = {sample.name for family in served.collect() for sample in family.samples}
    assert {"fedsplit_rounds", "fedsplit_channel_steps_total"} <= names
    for name in names:
        with pytest.raises(ConfigError, match="cannot be declared: its key is that of a"):
            Metric(name.removeprefix("fedsplit_"), "mine")
    for family in served.collect():
        with pytest.raises(ConfigError, match="cannot be declared: its key is that of a"):
            Metric(family.name.removeprefix("fedsplit_"), "mine")
