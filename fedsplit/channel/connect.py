"""Connect to a split server, in either engine."""

from __future__ import annotations

from fedsplit.addresses import is_loopback
from fedsplit.channel.direct import SCHEME, DirectStream
from fedsplit.channel.endpoint import Stream
from fedsplit.channel.grpc_stream import GrpcStream
from fedsplit.channel.tls import ClientTls
from fedsplit.errors import ConfigError


def connect(
    address: str,
    token: str,
    *,
    step_timeout: float,
    max_frame_bytes: int,
    reconnect_timeout: float = 0.0,
    ask_again_after: float | None = None,
    tls: ClientTls | None = None,
) -> Stream:
    """Open a stream.

    Parameters
    ----------
    address : str
        ``host:port``, or the address of a server in this process.
    token : str
        The participant's token for this round.
    step_timeout : float
        Seconds to wait for the connection, and for each answer.
    max_frame_bytes : int
        Longer answers are refused.
    reconnect_timeout : float
        Seconds in which to connect again when the stream breaks; 0 = never.
    ask_again_after : float | None
        Seconds after which to take another stream for the same answer, in case the frame was lost
        on a connection that is alive. None = `step_timeout`.
    tls : ClientTls | None
        Certificates, with which the channel is encrypted.

    Raises
    ------
    ChannelError
        If the server cannot be reached, does not know the token, or one end does not accept the
        other's certificate.
    ConfigError
        If this end's certificates are not what they must be, or the address is not a loopback
        address and nothing encrypts the channel.
    """
    if address.startswith(SCHEME):
        return DirectStream(address, token)
    if tls is None and not is_loopback(address):
        raise ConfigError(
            f"The split server is at '{address}', off this machine, but nothing encrypts the "
            "channel. Set channel.certificate and channel.private-key for the server, and "
            "root-certificates in this SuperNode's node config."
        )
    return GrpcStream(
        address,
        token,
        step_timeout=step_timeout,
        max_frame_bytes=max_frame_bytes,
        reconnect_timeout=reconnect_timeout,
        ask_again_after=ask_again_after,
        tls=tls,
    )
