"""Addresses, ``host:port``, of the split server."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

_LABEL = r"[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
"""RFC 1123, section 2.1, with the underscores that container networks use."""


def address_fault(address: str) -> str | None:
    """Return why a text is not an address, or None if it is one."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        return "must be host:port with a port from 0 to 65535"
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        return "must have brackets around an IPv6 host, as in [::1]:9400"
    if host.startswith("[") and not isinstance(_ip(host[1:-1]), IPv6Address):
        return "must have an IPv6 host in the brackets, as in [::1]:9400"
    return None if host.startswith("[") else host_fault(host)


def host_fault(host: str) -> str | None:
    """Return why a text is not a host, or None if it is one."""
    if _ip(host) is not None:
        return None
    if not _NAME.fullmatch(host):
        return (
            "must have the name or the IP address of a host, without a scheme, path or space; "
            "other letters than a to z are encoded (xn--...)"
        )
    if re.fullmatch(r"[0-9.]+", host):
        return "must have an IP address of four numbers, or of IPv6, or a name"
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
    found = _ip(host)
    return host == "localhost" if found is None else found.is_loopback


def is_wildcard(address: str) -> bool:
    """Tell whether an address stands for all addresses of a machine: nobody can connect to it."""
    found = _ip(host_of(address))
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return found is not None and (mapped or found).is_unspecified


def with_port(address: str, port: int) -> str:
    """Return an address with another port, if its own is 0, and an IPv6 host in its short form.

    gRPC compares that form with the hosts of a certificate.
    """
    found = _ip(host_of(address))
    host = f"[{found}]" if isinstance(found, IPv6Address) else address.rpartition(":")[0]
    return f"{host}:{port_of(address) or port}"


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
