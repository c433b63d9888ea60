"""Which split server a client connects to: a message alone does not decide that.

Whoever sends a client its messages would otherwise choose the machine to which it sends smashed
data and labels, and make it connect to any machine of its owner's network.
"""

from __future__ import annotations

from ipaddress import ip_address

from fedsplit.addresses import address_fault, host_of, is_loopback, port_of
from fedsplit.channel.direct import SCHEME
from fedsplit.errors import UnreachableError

KEY = "channel-address"
"""The key of a SuperNode's ``--node-config``."""


def check_address(advertised: str, allowed: str | None) -> str:
    """Return the address of a message, if this client may connect to it.

    Parameters
    ----------
    advertised : str
        ``host:port``, or the address of a server in this process.
    allowed : str | None
        What the client's own configuration names: ``host:port``, or a host with any port. None =
        this machine only.

    Raises
    ------
    UnreachableError
        If it may not; names both.
    """
    if advertised.startswith(SCHEME):  # opens no connection
        return advertised
    if fault := address_fault(advertised):
        raise UnreachableError(
            f"The server's message names the channel address {advertised!r}, which {fault}."
        )
    if allowed is None:
        if not is_loopback(advertised):
            raise UnreachableError(
                f"The server's message names the channel address {advertised!r}, which is another "
                "machine, and this client's own configuration names none. Start its SuperNode with "
                f"--node-config '{KEY}=\"{advertised}\"', if that is the split server."
            )
        return advertised
    host, port = _parts(allowed)
    if _plain(host_of(advertised)) != host or port not in (None, port_of(advertised)):
        raise UnreachableError(
            f"The server's message names the channel address {advertised!r}, but {KEY} = "
            f"{allowed!r} in this client's --node-config. Correct the one that is wrong."
        )
    return advertised


def _parts(allowed: str) -> tuple[str, int | None]:
    """Return the host of a node's own key, and the port if it names one."""
    if address_fault(allowed) is None:
        return _plain(host_of(allowed)), port_of(allowed)
    return _plain(allowed.removeprefix("[").removesuffix("]")), None


def _plain(host: str) -> str:
    """Return a host in the one spelling in which hosts are compared."""
    try:
        return str(ip_address(host))  # 0:0:0:0:0:0:0:1 is ::1
    except ValueError:
        return host.removesuffix(".").lower()
