"""PEM files as other programs make them: used as they are, or refused with the cause."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.channel.grpc_stream import GrpcStream
from fedsplit.channel.tls import ClientTls, Identity, ServerTls
from fedsplit.errors import ConfigError
from tests.channel.hosts import EchoHost

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def issue(folder: Path, key: Key) -> Identity:
    """Write a certificate that has issued itself, and its key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "split server")])
    now = datetime.now(UTC)
    hosts = [x509.IPAddress(ip_address(host)) for host in ("127.0.0.1", "::1")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "own.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "own.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Identity(folder / "own.pem", folder / "own.key", "The split server's")


def connects(server: ServerTls, client: ClientTls, address: str, advertise: str = "") -> bool:
    channel = GrpcChannel(
        EchoHost(), address=address, advertise=advertise, tls=server, max_streams=4
    )
    try:
        with GrpcStream(
            channel.address,
            "t",
            step_timeout=10.0,
            max_frame_bytes=4096,
            reconnect_timeout=0.0,
            tls=client,
        ) as stream:
            return stream.exchange(Frame(Kind.FINISH, 0)).kind is Kind.FINISH
    finally:
        channel.close()


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
    ids=["P-384", "RSA"],
)
def test_kinds_of_keys_that_grpc_uses(key: Key, tmp_path: Path) -> None:
    identity = issue(tmp_path, key)
    roots = identity.certificate
    mutual = ServerTls(identity, roots)
    assert connects(mutual, ClientTls(roots, identity), "127.0.0.1:0")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (ec.generate_private_key(ec.SECP521R1()), "secp521r1"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
    ],
)
def test_other_kinds_are_named(key: Key, kind: str, tmp_path: Path) -> None:
    """gRPC would say that a port is in use, or that a socket was closed.

    Break it: leave out `_check_key`.
    """
    identity = issue(tmp_path, key)
    with pytest.raises(ConfigError, match=f"The split server's .*has a key of the kind {kind},"):
        identity.read()


@pytest.mark.parametrize("change", [b"\xef\xbb\xbf%s", b"# the CA\r\n%s", b"%s"])
def test_files_of_other_editors_can_be_read(change: bytes, tmp_path: Path) -> None:
    """Break it: leave the byte order mark in front."""
    identity = issue(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    roots = tmp_path / "roots.pem"
    content = identity.certificate.read_bytes().replace(b"\n", b"\r\n")
    roots.write_bytes(change % content)
    assert connects(ServerTls(identity), ClientTls(roots), "127.0.0.1:0")


def test_any_form_of_an_ipv6_host_can_be_advertised(tmp_path: Path) -> None:
    """Break it: advertise it as it is written."""
    identity = issue(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    server, client = ServerTls(identity), ClientTls(identity.certificate)
    assert connects(server, client, "[::1]:0", "[0:0:0:0:0:0:0:1]:0")
