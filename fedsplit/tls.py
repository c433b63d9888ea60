"""The certificates of a run: which files either end of the channel uses."""

from __future__ import annotations

from pathlib import Path

from fedsplit.channel.tls import ClientTls, Identity, ServerTls, exposed
from fedsplit.config import ChannelConfig, NodeConfig
from fedsplit.errors import ConfigError
from fedsplit.run_log import warn


def server_tls(channel: ChannelConfig) -> ServerTls | None:
    """Return the server's end of TLS; None without a certificate."""
    if not channel.certificate:
        return None
    identity = _identity(channel.certificate, channel.private_key, "The split server's")
    return ServerTls(identity, _path(channel.client_ca) if channel.client_ca else None)


def client_tls(channel: ChannelConfig, node: NodeConfig) -> ClientTls | None:
    """Return a client's end of TLS; None if neither the run nor the node asks for it.

    Raises
    ------
    ConfigError
        If the server asks for a client certificate and the node has none.
    """
    roots = node.root_certificates or channel.root_certificates
    if not (channel.certificate or node.root_certificates or node.certificate):
        return None
    if channel.client_ca and not node.certificate:
        raise ConfigError(
            "The split server asks for a client certificate (channel.client-ca), and this "
            "SuperNode has none. Start it with certificate and private-key in its node config."
        )
    identity = None
    if node.certificate:
        identity = _identity(node.certificate, node.private_key, "This client's")
    return ClientTls(_path(roots) if roots else None, identity)


def check_certificates(channel: ChannelConfig) -> None:
    """Refuse certificates that the split server of a run under Flower cannot use.

    Raises
    ------
    ConfigError
        Names the file, and what is wrong with it.
    """
    tls = server_tls(channel)
    if tls is None:
        return
    tls.credentials()
    tls.identity.check_names(channel.advertise or channel.address)
    if text := exposed(tls.identity.private_key):
        warn(text)


def exposed_key(node: NodeConfig) -> str:
    """Return a warning about a node's private key that others can read; empty if none can."""
    return exposed(_path(node.private_key)) if node.private_key else ""


def _identity(certificate: str, private_key: str, owner: str) -> Identity:
    return Identity(_path(certificate), _path(private_key), owner)


def _path(name: str) -> Path:
    return Path(name).expanduser()
