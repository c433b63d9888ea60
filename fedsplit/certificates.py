"""Certificates for tests and small sites: a CA, the server's, and one for each client.

X.509 by the library `cryptography`. Keys are of P-256; files with keys can be read by their owner
only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedsplit.errors import ConfigError

_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
"""RFC 1123, section 2.1; the first label may be a wildcard."""
_CLOCKS_DIFFER = timedelta(hours=1)
_CA_LIFE = timedelta(days=3650)


class _Issued(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_certificates(
    directory: Path, *, hosts: Sequence[str], num_clients: int = 0, days: int = 365
) -> list[Path]:
    """Make a CA, a server's certificate and clients' certificates.

    If the directory has a CA, it issues the new ones. Nothing that is there is replaced: a client
    that has a certificate keeps it.

    Parameters
    ----------
    directory : Path
        Where they are written: ``ca.pem``, ``ca.key``, ``server.pem``, ``server.key``,
        ``client-0.pem``, ``client-0.key`` and so on.
    hosts : Sequence[str]
        Names or IP addresses by which clients reach the server.
    num_clients : int
        How many clients have certificates afterwards.
    days : int
        How long the certificates are valid; the CA is valid for ten years.

    Returns
    -------
    list[Path]
        The files that were made.

    Raises
    ------
    ConfigError
        If the server has a certificate already, a host is not one, a file cannot be written, or
        the CA there cannot be used.
    """
    alternatives = [_general_name(host) for host in hosts]
    if hosts and (directory / "server.pem").exists():
        raise ConfigError(
            f"'{directory}' has a server.pem already. Leave out --host to make clients' "
            "certificates only. To make another for the server, rename it and server.key; what "
            "trusts the CA accepts the old one until it expires."
        )
    names = ["server"] if hosts else []
    names += [
        name
        for name in (f"client-{number}" for number in range(num_clients))
        if not (directory / f"{name}.pem").exists()
    ]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / "ca.pem").exists() or (directory / "ca.key").exists():
            ca = _read(directory)
        else:
            ca = _issue("fedsplit CA", None, life=_CA_LIFE)
            _write(directory, "ca", ca)
            names = ["ca", *names]
        for name in [name for name in names if name != "ca"]:
            own = alternatives if name == "server" else ()
            _write(directory, name, _issue(name, ca, life=timedelta(days=days), alternatives=own))
    except OSError as error:
        raise ConfigError(
            f"Certificates cannot be written to '{directory}': {error.strerror}. Name a directory "
            "that this user may write to."
        ) from None
    return [directory / f"{name}{end}" for name in names for end in (".pem", ".key")]


def _issue(
    name: str,
    ca: _Issued | None,
    *,
    life: timedelta,
    alternatives: Sequence[x509.GeneralName] = (),
) -> _Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now, signer = datetime.now(UTC), ca.key if ca else key
    last = now + life
    if ca is not None:
        last = min(last, ca.certificate.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.certificate.subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(last)
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(_usage(of_ca=ca is None), critical=True)
    )
    if ca is not None:
        purpose = (
            ExtendedKeyUsageOID.SERVER_AUTH if alternatives else ExtendedKeyUsageOID.CLIENT_AUTH
        )
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return _Issued(builder.sign(signer, hashes.SHA256()), key)


def _usage(*, of_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not of_ca,
        key_cert_sign=of_ca,
        crl_sign=of_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if address and address.is_unspecified:
        raise ConfigError(
            f"--host {host} stands for all addresses of a machine, and clients cannot connect to "
            "it. Give the address, or the name, by which they reach the server."
        )
    if address:
        return x509.IPAddress(address)
    if not _HOST.fullmatch(host) or host.rpartition(".")[2].isdigit():
        raise ConfigError(
            f"--host '{host}' is neither an IP address nor the name of a host. Give it without a "
            "port; a name with other letters than a to z in its encoded form (xn--...)."
        )
    return x509.DNSName(host)


def _write(directory: Path, name: str, issued: _Issued) -> None:
    pem = issued.certificate.public_bytes(serialization.Encoding.PEM)
    key = issued.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # A link in the way, even one that leads nowhere, is not followed.
    with (directory / f"{name}.pem").open("xb") as file:
        file.write(pem)
    private = os.open(directory / f"{name}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(private, "wb") as file:
        file.write(key)


def _read(directory: Path) -> _Issued:
    path, key_path = directory / "ca.pem", directory / "ca.key"
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"The CA in '{directory}' cannot be used: {error}. It needs ca.pem and ca.key, the "
            "latter without a password; or name another directory for a new CA."
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key() != certificate.public_key()
    ):
        raise ConfigError(
            f"'{key_path}' is not the private key of '{path}', or of another kind than those that "
            "this command makes. Name another directory for a new CA."
        )
    return _Issued(certificate, key)
