"""The byte ledger: exact serialized lengths, by direction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Traffic:
    """Bytes that crossed in each direction; clients send up, the server sends down.

    Attributes
    ----------
    uplink_bytes, downlink_bytes : int
        Each frame once, however often a stream broke.
    repeated_bytes : int
        Frames that were sent again after a stream broke, in either direction.
    """

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    repeated_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        """Return the sum, direction by direction."""
        return Traffic(
            self.uplink_bytes + other.uplink_bytes,
            self.downlink_bytes + other.downlink_bytes,
            self.repeated_bytes + other.repeated_bytes,
        )
