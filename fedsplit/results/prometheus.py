"""A run's numbers for Prometheus, at ``http://HOST:PORT/metrics`` while it goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedsplit.addresses import host_of, is_loopback, port_of
from fedsplit.config import Config
from fedsplit.errors import ConfigError
from fedsplit.fields import FIELDS, ROUND_FIELDS, as_number
from fedsplit.meter import METER
from fedsplit.results.metrics_server import MetricsServer
from fedsplit.run_log import say

_CHANNEL = {
    "steps": "Training and evaluation steps that were answered",
    "refusals": "Streams that were refused",
    "streams": "Streams that were opened",
    "uplink_bytes": "Bytes of frames from clients",
    "downlink_bytes": "Bytes of frames to clients",
}


class Prometheus:
    """Serves the last round's numbers, the sums over rounds, and the channel's live counters.

    Parameters
    ----------
    config : Config
        With the address, and the certificate if it is off loopback.

    Raises
    ------
    ConfigError
        If nothing can listen there.
    """

    def __init__(self, config: Config) -> None:
        self._collector = _Numbers(config)
        registry = CollectorRegistry()
        registry.register(self._collector)
        address, channel = config.sinks.prometheus, config.channel
        certificate, key = "", ""
        if not is_loopback(address):
            certificate, key = channel.certificate, channel.private_key
        try:
            self._server = MetricsServer(
                host_of(address), port_of(address), make_wsgi_app(registry), certificate, key
            )
        except OSError as error:
            raise ConfigError(
                f"sinks.prometheus = '{address}' cannot be listened on: {error.strerror}. Use "
                "another port, or 0 for a free one."
            ) from None
        host, scheme = address.rpartition(":")[0], "https" if certificate else "http"
        say(f"Metrics: {scheme}://{host}:{self._server.server_port}/metrics")

    def send_round(self, row: Mapping[str, Any]) -> None:
        """Take the row of a round."""
        self._collector.take(row)

    def send_summary(self, summary: Mapping[str, Any]) -> None:
        """Take the summary: its numbers are those of the rounds."""

    def close(self) -> None:
        """Stop listening."""
        self._server.close()


class _Numbers(Collector):
    """What a scrape reads."""

    def __init__(self, config: Config) -> None:
        self._rounds = config.num_server_rounds
        self._last: dict[str, float] = {}
        self._sums: Counter[str] = Counter()

    def take(self, row: Mapping[str, Any]) -> None:
        """Keep a round's numbers."""
        numbers = {key: as_number(value) for key, value in row.items()}
        last = {
            key: float(value) for key, value in numbers.items() if isinstance(value, int | float)
        }
        sums = Counter(self._sums)
        sums.update({key: last.get(key, 0.0) for key in _SUMMED})
        self._last, self._sums = last, sums  # replaced, not changed: a scrape may be reading them

    def collect(self) -> Iterator[Metric]:
        """Yield what there is."""
        yield GaugeMetricFamily("fedsplit_rounds", "Rounds of the run", self._rounds)
        last, sums = self._last, self._sums
        for key, value in last.items():
            if key not in _SUMMED:
                label = FIELDS[key].label if key in FIELDS else key
                yield GaugeMetricFamily(f"fedsplit_{key}", f"Last round: {label}", value)
        for key in _SUMMED:
            label = FIELDS[key].label
            yield CounterMetricFamily(f"fedsplit_{key}", f"All rounds: {label}", sums[key])
        counts = METER.counts()
        for name, meaning in _CHANNEL.items():
            yield CounterMetricFamily(f"fedsplit_channel_{name}", meaning, counts.get(name, 0))


_SUMMED = tuple(field.key for field in ROUND_FIELDS if field.over_rounds == "sum")
