"""Why a TLS handshake with the split server fails, in a sentence with its remedy."""

from __future__ import annotations

import socket
import ssl
import time

from fedsplit.addresses import host_of, port_of
from fedsplit.channel.tls import ClientTls

_SECONDS = 5.0
_TRIES, _PAUSE_SECONDS = 4, 0.4
_EXPIRED, _NOT_YET_VALID, _OTHER_HOST, _OTHER_IP = 10, 9, 62, 64
"""OpenSSL's numbers of reasons to refuse a certificate (X509_V_ERR_*)."""


def handshake_fault(address: str, tls: ClientTls) -> str | None:
    """Connect four times more, only for a handshake, and return why all of them fail.

    Parameters
    ----------
    address : str
        ``host:port`` of the split server.
    tls : ClientTls
        What the failed connection was made with.

    Returns
    -------
    str | None
        The end of a sentence about the address, and the remedy. None if a handshake succeeds, or
        the connection breaks for a reason that another try may not meet.
    """
    fault = _fault(address, tls)
    for _ in range(_TRIES - 1):
        if fault is None:
            return None
        # A network that cuts right after the handshake looks the same, but hardly each time.
        time.sleep(_PAUSE_SECONDS)
        if _fault(address, tls) != fault:
            return None
    return fault


def _fault(address: str, tls: ClientTls) -> str | None:
    context = ssl.create_default_context(cafile=tls.root_certificates)
    context.set_alpn_protocols(["h2"])
    if tls.identity is not None:
        context.load_cert_chain(tls.identity.certificate, tls.identity.private_key)
    host = host_of(address)
    try:
        with (
            socket.create_connection((host, port_of(address)), timeout=_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            # In TLS 1.3 a client learns only now that its certificate is refused.
            return None if encrypted.recv(1) else _refused(tls)
    except ssl.SSLCertVerificationError as error:
        return _unaccepted(error, host, tls)
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
            return (
                "does not speak TLS, but this client does. Set channel.certificate and "
                "channel.private-key for the server."
            )
        return None
    except OSError:
        return None


def _refused(tls: ClientTls) -> str:
    if tls.identity is None:
        return (
            "closed the connection after the handshake: it asks for a client certificate "
            "(channel.client-ca). Start this SuperNode with certificate and private-key in its "
            "node config."
        )
    return (
        "closed the connection after the handshake: it does not accept this client's certificate "
        f"'{tls.identity.certificate}'. Have one issued by the server's client CA "
        "(channel.client-ca)."
    )


def _unaccepted(error: ssl.SSLCertVerificationError, host: str, tls: ClientTls) -> str:
    if error.verify_code == _EXPIRED:
        return "has a certificate that has expired. Have a new one issued for the server."
    if error.verify_code == _NOT_YET_VALID:
        return "has a certificate that is not valid yet. Check the clocks of both machines."
    if error.verify_code in (_OTHER_HOST, _OTHER_IP):
        return (
            f"has a certificate that is not for '{host}'. Issue it for that host, or set "
            "channel.advertise to a host that it names."
        )
    trusted = "the public CAs"
    if tls.root_certificates is not None:
        trusted = f"root-certificates = '{tls.root_certificates}'"
    return (
        f"has a certificate that none of {trusted} has issued ({error.verify_message}). Set "
        "root-certificates in this SuperNode's node config to the CA of the server's certificate."
    )
