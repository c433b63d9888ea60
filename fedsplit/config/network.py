"""The configuration keys of the channel, and of the simulated network."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from fedsplit.addresses import is_loopback, is_wildcard
from fedsplit.config.section import Address, Section
from fedsplit.names import path_fault

Profile = Literal["none", "lan", "wifi", "4g", "custom"]


class ChannelConfig(Section):
    """How clients reach the split server."""

    address: Address = Field(
        "127.0.0.1:0",
        min_length=1,
        description="host:port that the split server listens on; port 0 = a free one; off loopback "
        "only with channel.certificate",
    )
    advertise: Address = Field(
        "",
        description="host:port that clients connect to; empty = channel.address; port 0 = the port "
        "that the split server listens on",
    )
    certificate: str = Field(
        "", description="PEM file of the split server's certificate; empty = no TLS"
    )
    private_key: str = Field("", description="PEM file of the certificate's private key")
    client_ca: str = Field(
        "",
        description="PEM file of the CA whose certificates clients must present (mutual TLS); "
        "empty = none are asked for",
    )
    root_certificates: str = Field(
        "",
        description="PEM file of the CAs that clients trust, unless their node config names one; "
        "empty = the public CAs",
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
    output_gradient_factor: float = Field(
        10.0,
        ge=0.0,
        description="the same for the gradients of the trunk's output that clients send (u-shaped)",
    )
    cut_gradient_factor: float = Field(
        1000.0,
        ge=0.0,
        description="how many times as large as all that a client has seen in the run the values "
        "of a cut gradient may be; more is refused; 0 = as large as they like",
    )

    @field_validator("certificate", "private_key", "client_ca", "root_certificates")
    @classmethod
    def _a_path(cls, path: str) -> str:
        if fault := path_fault(path):
            raise ValueError(fault)
        return path

    @model_validator(mode="after")
    def _encrypted_off_loopback(self) -> Self:
        if bool(self.certificate) != bool(self.private_key):
            raise ValueError("channel.certificate and channel.private-key must be set together")
        if not self.certificate and (self.client_ca or self.root_certificates):
            raise ValueError(
                "channel.client-ca and channel.root-certificates have no effect without "
                "channel.certificate and channel.private-key; set them too"
            )
        for key, address in (("address", self.address), ("advertise", self.advertise)):
            if address and not self.certificate and not is_loopback(address):
                raise ValueError(
                    f"channel.{key} = '{address}' is not a loopback address (127.0.0.1, localhost "
                    "or [::1]), and nothing encrypts the channel. Set channel.certificate and "
                    "channel.private-key ('fedsplit certificates' makes some to try with)"
                )
        if is_wildcard(self.advertise or self.address):
            raise ValueError(
                f"channel.{'advertise' if self.advertise else 'address'} = "
                f"'{self.advertise or self.address}': clients cannot connect to it; set "
                "channel.advertise to the host by which they reach the split server"
            )
        return self


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
        rates = {
            "network.uplink-mbps": self.uplink_mbps,
            "network.downlink-mbps": self.downlink_mbps,
        }
        if self.profile == "custom":
            if missing := [key for key, rate in rates.items() if not rate]:
                raise ValueError(
                    f"network.profile = 'custom' needs {' and '.join(missing)} above 0; "
                    "network.latency-ms may be 0"
                )
            return self
        given = rates | {"network.latency-ms": self.latency_ms}
        if wrong := [f"{key} = {value:g}" for key, value in given.items() if value]:
            raise ValueError(
                f"{', '.join(wrong)} has no effect with network.profile = '{self.profile}'; leave "
                "it at 0, or set network.profile = 'custom'"
            )
        return self
