"""Addresses, ``host:port``, of the split server."""

from __future__ import annotations

from ipaddress import ip_address

WILDCARDS = ("0.0.0.0", "::")
"""Hosts that stand for all addresses of a machine: something can listen on them, not connect."""


def address_fault(address: str) -> str | None:
    """Return why a text is not an address, or None if it is one."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        return "must be host:port with a port from 0 to 65535"
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        return "must have brackets around an IPv6 host, as in [::1]:9400"
    return None


def host_of(address: str) -> str:
    """Return the host of an address, without brackets."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def port_of(address: str) -> int:
    """Return the port of an address."""
    return int(address.rpartition(":")[2])


def is_loopback(address: str) -> bool:
    """Tell whether an address can be reached from its own machine only."""
    host = host_of(address)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_wildcard(address: str) -> bool:
    """Tell whether an address stands for all addresses of a machine."""
    return bool(address) and host_of(address) in WILDCARDS


def with_port(address: str, port: int) -> str:
    """Return an address with another port, if its own is 0."""
    host, _, own = address.rpartition(":")
    return address if int(own) else f"{host}:{port}"
