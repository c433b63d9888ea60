"""Simulated links between a client and the server, and the time that traffic takes on them.

Nothing here waits or sends: a link converts counted bytes and messages to seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedsplit.config import NetworkConfig


@dataclass(frozen=True)
class Link:
    """One client's link to the server; no other client shares it.

    Attributes
    ----------
    uplink_mbps, downlink_mbps : float
        Rates from and to the client, in 10^6 bits per second.
    latency_ms : float
        One-way latency in milliseconds: half a round trip.
    """

    uplink_mbps: float
    downlink_mbps: float
    latency_ms: float

    def seconds(
        self,
        *,
        uplink_bytes: int,
        downlink_bytes: int,
        uplink_messages: int,
        downlink_messages: int,
    ) -> float:
        """Return the time that a sequence of messages takes.

        Each message takes the latency, plus its bits divided by the rate of its direction. No two
        messages are in flight at the same time, because each frame of a stream waits for the
        answer to the one before. The link has no loss, slow start or protocol headers, so a real
        link takes longer.
        """
        return (
            8 * uplink_bytes / (self.uplink_mbps * 1e6)
            + 8 * downlink_bytes / (self.downlink_mbps * 1e6)
            + (uplink_messages + downlink_messages) * self.latency_ms / 1e3
        )


PROFILES = {
    # Gigabit Ethernet (IEEE 802.3ab) through one switch. The rate is that of the standard. The
    # latency is an order of magnitude: operating systems take about 0.2 ms for a round trip.
    "lan": Link(1000.0, 1000.0, 0.1),
    # IEEE 802.11n with two streams at 20 MHz signals 144 Mbit/s. Acknowledgements, headers and
    # pauses leave about two thirds of it. A round trip on a quiet channel takes a few ms. Both are
    # estimates from the standard, not measurements.
    "wifi": Link(100.0, 100.0, 2.0),
    # "LTE" of WebPageTest's connectivity profiles (connectivity.ini): 12 Mbit/s each way, and a
    # round trip of 70 ms.
    "4g": Link(12.0, 12.0, 35.0),
}
"""The links of the named profiles; ``custom`` has the link of the configuration."""


def link_of(config: NetworkConfig) -> Link | None:
    """Return the simulated link, or None if `network.profile` is "none"."""
    if config.profile == "none":
        return None
    if config.profile == "custom":
        return Link(config.uplink_mbps, config.downlink_mbps, config.latency_ms)
    return PROFILES[config.profile]
