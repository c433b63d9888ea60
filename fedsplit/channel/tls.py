"""TLS on the channel: the certificates of either end.

gRPC does the encryption. Its errors name neither the certificate nor the remedy, and a server that
refuses a client's certificate closes the connection without a word. So certificates are checked
before they are used; `fedsplit.channel.handshake` finds out why a connection still fails.
"""

from __future__ import annotations

import codecs
import ssl
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from fedsplit.addresses import host_of
from fedsplit.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_CURVES = ("secp256r1", "secp384r1")
_MINUTE = "%Y-%m-%d %H:%M UTC"


@dataclass(frozen=True)
class Identity:
    """What one end proves itself with: a certificate and its private key, each a PEM file.

    Attributes
    ----------
    certificate : Path
        The certificate first, then those of its issuers, without the CA's own.
    private_key : Path
        Its key, not encrypted.
    owner : str
        Whose it is, for messages.
    """

    certificate: Path
    private_key: Path
    owner: str

    def read(self) -> tuple[bytes, bytes]:
        """Return the private key and the certificates, as gRPC takes them.

        Raises
        ------
        ConfigError
            If a file cannot be read, they do not belong together, or the certificate is not valid
            today.
        """
        certificate = _read(self.certificate, f"{self.owner} certificate")
        key = _read(self.private_key, f"{self.owner} private key")
        if b"PRIVATE KEY-" in certificate and b"CERTIFICATE-" not in certificate:
            raise ConfigError(
                f"{self.owner} certificate '{self.certificate}' is a private key. Exchange "
                "certificate and private-key, if they are swapped."
            )
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.private_key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"The certificate '{self.certificate}' and the private key '{self.private_key}' "
                f"cannot be used together: {_reason(error)}. Both must be PEM files, the key must "
                "be that of the certificate, and it must not be encrypted."
            ) from None
        own = _parsed(certificate, self.certificate)[0]
        _check_key(own, self)
        _check_dates(own, self)
        return key, certificate

    def check_names(self, address: str) -> None:
        """Refuse a certificate that clients of an address would not accept.

        Raises
        ------
        ConfigError
            If it does not name the host.
        """
        from cryptography import x509

        host = host_of(address)
        content = _read(self.certificate, f"{self.owner} certificate")
        certificate = _parsed(content, self.certificate)[0]
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            known = []
        else:
            known = [str(name.value) for name in names.value]
        if not any(_covers(name, host) for name in known):
            raise ConfigError(
                f"The certificate '{self.certificate}' is for {', '.join(known) or 'no host'}, not "
                f"for '{host}', to which clients connect. Issue it for that host (subject "
                "alternative name), or set channel.advertise to a host that it names."
            )


@dataclass(frozen=True)
class ServerTls:
    """The server's end of TLS.

    Attributes
    ----------
    identity : Identity
        Its certificate and key.
    client_ca : Path | None
        The CA, a PEM file, whose certificates clients must present; None = none are asked for.
    """

    identity: Identity
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Return gRPC's form of it.

        Raises
        ------
        ConfigError
            If a file is not what it must be.
        """
        pair = self.identity.read()
        if self.client_ca is None:
            return grpc.ssl_server_credentials([pair])
        return grpc.ssl_server_credentials(
            [pair], _authorities(self.client_ca), require_client_auth=True
        )


@dataclass(frozen=True)
class ClientTls:
    """A client's end of TLS.

    Attributes
    ----------
    root_certificates : Path | None
        The CAs, a PEM file, of which one must have issued the server's certificate; None = the
        public ones that gRPC knows.
    identity : Identity | None
        What the client proves itself with, if the server asks for it.
    """

    root_certificates: Path | None = None
    identity: Identity | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC's form of it.

        Raises
        ------
        ConfigError
            If a file is not what it must be.
        """
        roots = _authorities(self.root_certificates) if self.root_certificates else None
        key, certificate = self.identity.read() if self.identity else (None, None)
        return grpc.ssl_channel_credentials(roots, key, certificate)


def _authorities(path: Path) -> bytes:
    """Return a PEM file of CA certificates, checked."""
    content = _read(path, "The CA file")
    _parsed(content, path)
    return content


def exposed(private_key: Path) -> str:
    """Return a warning about a key file that every user can read; empty if not every user can."""
    try:
        mode = stat.S_IMODE(private_key.stat().st_mode)
    except OSError:
        return ""  # what uses it says so
    if not mode & stat.S_IROTH:
        return ""
    return (
        f"The private key '{private_key}' can be read by every user of this machine (mode "
        f"{mode:o}). Protect it: chmod 600 '{private_key}'"
    )


def _read(path: Path, what: str) -> bytes:
    try:
        # What some editors begin a file with, gRPC takes for a part of its first line.
        return path.expanduser().read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise ConfigError(
            f"{what} '{path}' cannot be read: {error.strerror}. Give the path of a PEM file; "
            "'fedsplit certificates' makes certificates for tests and small sites."
        ) from None


def _parsed(content: bytes, path: Path) -> list[Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ConfigError(
            f"'{path}' holds no certificate that can be read. Give a PEM file, which has the line "
            "'-----BEGIN CERTIFICATE-----'."
        ) from None


def _no_password() -> str:
    """Refuse encrypted keys, instead of asking for a password on a terminal."""
    raise ValueError("the private key is encrypted")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM files").replace("_", " ").lower()
    return str(error)


def _check_key(certificate: Certificate, identity: Identity) -> None:
    """Refuse keys with which gRPC's TLS library makes no connection, and says nothing about it."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    key = certificate.public_key()
    if isinstance(key, RSAPublicKey):
        return
    kind = type(key).__name__.strip("_").removesuffix("PublicKey")
    if isinstance(key, EllipticCurvePublicKey):
        if key.curve.name in _CURVES:
            return
        kind = key.curve.name
    raise ConfigError(
        f"{identity.owner} certificate '{identity.certificate}' has a key of the kind {kind}, "
        "which gRPC does not use. Have one issued for a key of RSA, or of the curve P-256 or P-384."
    )


def _check_dates(certificate: Certificate, identity: Identity) -> None:
    now = datetime.now(UTC)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now <= last:
        when = f"expired on {last:{_MINUTE}}" if now > last else f"is valid from {first:{_MINUTE}}"
        raise ConfigError(
            f"{identity.owner} certificate '{identity.certificate}' {when}, and it is "
            f"{now:{_MINUTE}} now. Have a new one issued, or set this machine's clock."
        )


def _covers(name: str, host: str) -> bool:
    """Tell whether a name in a certificate stands for a host (RFC 6125, section 6.4)."""
    name, host = name.lower(), host.lower()
    first, _, rest = name.partition(".")
    if first == "*" and rest:
        return host.partition(".")[2] == rest
    try:
        return ip_address(name) == ip_address(host)
    except ValueError:
        return name == host
