"""The configuration keys of the channel, and of the simulated network."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from fedsplit.config.section import Section

Profile = Literal["none", "lan", "wifi", "4g", "custom"]


class ChannelConfig(Section):
    """How clients reach the split server."""

    address: str = Field(
        "127.0.0.1:0", description="host:port that the split server listens on; port 0 = a free one"
    )
    join_timeout: float = Field(
        60.0,
        gt=0.0,
        description="seconds to wait until all participants have joined a round in which they wait "
        "for each other (sflv2, parallel)",
    )
    step_timeout: float = Field(
        60.0, gt=0.0, description="seconds to wait for the answer to one step"
    )
    reconnect_timeout: float = Field(
        20.0,
        ge=0.0,
        le=86400.0,
        description="seconds in which a client whose stream broke can connect again and continue; "
        "0 = it is left out of the round at once",
    )

    activation_factor: float = Field(
        10.0,
        ge=0.0,
        description="how many times as large as all that the run has shown so far the values of a "
        "client's smashed data may be; more is refused; 0 = as large as they like",
    )

    @field_validator("address")
    @classmethod
    def _loopback_only(cls, address: str) -> str:
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise ValueError("must be host:port with a port from 0 to 65535")
        if host not in ("127.0.0.1", "localhost", "[::1]"):
            raise ValueError(
                "must be a loopback address (127.0.0.1, localhost or [::1]): "
                "the channel is not encrypted yet"
            )
        return address


class NetworkConfig(Section):
    """The simulated link of every client; a run never waits for it (docs/network.md)."""

    profile: Profile = Field(
        "none", description="the link; none = no simulation, custom = the three keys below"
    )
    uplink_mbps: float = Field(
        0.0, ge=0.0, le=1e9, description="custom: rate to the server, in 10^6 bits per second"
    )
    downlink_mbps: float = Field(
        0.0, ge=0.0, le=1e9, description="custom: rate from the server, in 10^6 bits per second"
    )
    latency_ms: float = Field(
        0.0, ge=0.0, le=1e9, description="custom: one-way latency of a message, in milliseconds"
    )

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
                f"{', '.join(wrong)} has no effect with profile = '{self.profile}'; leave it at 0, "
                "or set profile = 'custom'"
            )
        return self
