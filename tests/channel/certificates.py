"""Certificates that the tests of the channel use, made once for a test run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from fedsplit.certificates import _general_name, _issue, _read, _write, make_certificates
from fedsplit.channel.tls import ClientTls, Identity, ServerTls


def write_expired(directory: Path, name: str, *, hosts: Sequence[str] = ()) -> None:
    """Write a pair that the CA of a directory has issued, and that has expired meanwhile."""
    life = timedelta(minutes=-30)  # it is valid from an hour ago
    alternatives = [_general_name(host) for host in hosts]
    _write(directory, name, _issue(name, _read(directory), life=life, alternatives=alternatives))


class Certificates:
    """A CA with a server's and a client's certificate; further ones that must be refused."""

    def __init__(self, directory: Path) -> None:
        make_certificates(directory, hosts=["127.0.0.1", "localhost"], num_clients=1)
        make_certificates(directory / "other", hosts=["127.0.0.1"], num_clients=1)
        self.directory = directory
        write_expired(directory, "expired-client")
        write_expired(directory, "expired-server", hosts=["127.0.0.1"])
        (directory / "elsewhere").mkdir()
        (directory / "elsewhere" / "ca.pem").write_bytes((directory / "ca.pem").read_bytes())
        (directory / "elsewhere" / "ca.key").write_bytes((directory / "ca.key").read_bytes())
        make_certificates(directory / "elsewhere", hosts=["split.example.org", "*.example.net"])

    @property
    def ca(self) -> Path:
        """The CA of both ends."""
        return self.directory / "ca.pem"

    def identity(self, name: str) -> Identity:
        """Return the pair of a name."""
        certificate = self.directory / f"{name}.pem"
        return Identity(certificate, certificate.with_suffix(".key"), "This client's")

    def server(self, name: str = "server", *, mutual: bool = False) -> ServerTls:
        """Return a server's end."""
        return ServerTls(self.identity(name), self.ca if mutual else None)

    def client(self, name: str | None = None, *, ca: Path | None = None) -> ClientTls:
        """Return a client's end, with the certificate of a name."""
        return ClientTls(ca or self.ca, self.identity(name) if name else None)
