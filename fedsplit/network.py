"""Links between a client and the server, and how long traffic takes on them.

Nothing here waits or sends: a link turns bytes and messages that were counted into seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedsplit.config import NetworkConfig


@dataclass(frozen=True)
class Link:
    """One client's link to the server, which no other client uses.

    Attributes
    ----------
    uplink_mbps, downlink_mbps : float
        10^6 bits a second from and to the client.
    latency_ms : float
        Milliseconds from one end to the other, half a round trip.
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
        """Return how long messages take that follow one another.

        Every message takes the latency and its bytes over the rate of its direction; no two are
        on their way at the same time, as in a stream each frame waits for the answer to the one
        before. A link without loss, start-up or protocol headers: real ones take longer.
        """
        return (
            8 * uplink_bytes / (self.uplink_mbps * 1e6)
            + 8 * downlink_bytes / (self.downlink_mbps * 1e6)
            + (uplink_messages + downlink_messages) * self.latency_ms / 1e3
        )


PROFILES = {
    # Gigabit Ethernet (IEEE 802.3ab) through one switch. The rate is the standard's; 0.1 ms is the
    # order of what operating systems' network stacks take for a round trip of 0.2 ms.
    "lan": Link(1000.0, 1000.0, 0.1),
    # IEEE 802.11n with two streams at 20 MHz signals 144 Mbit/s, of which its acknowledgements,
    # headers and pauses leave some two thirds; and a round trip on a quiet channel takes a few ms.
    # Reasoned from the standard, not measured.
    "wifi": Link(100.0, 100.0, 2.0),
    # "LTE" of WebPageTest's connectivity profiles (connectivity.ini): 12 Mbit/s each way, and a
    # round trip of 70 ms.
    "4g": Link(12.0, 12.0, 35.0),
}
"""Named links; a run's own is `custom`."""


def link_of(config: NetworkConfig) -> Link | None:
    """Return the link that a run is to imagine; None if it is to imagine none."""
    if config.profile == "none":
        return None
    if config.profile == "custom":
        return Link(config.uplink_mbps, config.downlink_mbps, config.latency_ms)
    return PROFILES[config.profile]
