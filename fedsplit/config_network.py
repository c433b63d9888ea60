"""The configuration keys of the network that a run is told to imagine."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsplit.config_model import Section

Profile = Literal["none", "lan", "wifi", "4g", "custom"]


class NetworkConfig(Section):
    """Which link every client is imagined to have; nothing waits for it (docs/network.md)."""

    profile: Profile = Field("none", description="the link; custom = the three keys below")
    uplink_mbps: float = Field(
        0.0, ge=0.0, le=1e9, description="custom: 10^6 bits a second to the server"
    )
    downlink_mbps: float = Field(
        0.0, ge=0.0, le=1e9, description="custom: 10^6 bits a second from the server"
    )
    latency_ms: float = Field(0.0, ge=0.0, le=1e9, description="custom: of a message, one way")

    @model_validator(mode="after")
    def _rates_with_custom_only(self) -> Self:
        rates = {"uplink-mbps": self.uplink_mbps, "downlink-mbps": self.downlink_mbps}
        if self.profile == "custom":
            if missing := [key for key, rate in rates.items() if not rate]:
                raise ValueError(
                    f"profile = 'custom' needs {' and '.join(missing)} above 0; latency-ms may be 0"
                )
            return self
        given = rates | {"latency-ms": self.latency_ms}
        if wrong := [f"{key} = {value:g}" for key, value in given.items() if value]:
            raise ValueError(
                f"{', '.join(wrong)} says nothing with profile = '{self.profile}'; leave it at 0, "
                "or set profile = 'custom'"
            )
        return self
