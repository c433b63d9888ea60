from __future__ import annotations

import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedsplit.certificates import make_certificates
from fedsplit.errors import ConfigError
from tests.conftest import Call


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_files_are_there_and_their_keys_are_private(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "new" / "one", hosts=["a.example.org"], num_clients=2)
    names = [
        f"{name}.{end}"
        for name in ("ca", "server", "client-0", "client-1")
        for end in ("pem", "key")
    ]
    assert [path.name for path in made] == names
    assert all(path.is_file() for path in made)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in made if path.suffix == ".key"}
    assert modes == {0o600}


def test_a_host_is_a_name_or_an_ip_address(tmp_path: Path) -> None:
    make_certificates(tmp_path, hosts=["a.example.org", "192.0.2.1", "::1"])
    names = certificate(tmp_path / "server.pem").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(name.value) for name in names.value] == ["a.example.org", "192.0.2.1", "::1"]


def test_a_server_is_no_client_and_a_client_no_server(tmp_path: Path) -> None:
    """Otherwise any client could stand for the server. Break it: swap the two purposes."""
    make_certificates(tmp_path, hosts=["a"], num_clients=1)

    def purposes(name: str) -> list[str]:
        usage = certificate(tmp_path / f"{name}.pem").extensions.get_extension_for_class(
            x509.ExtendedKeyUsage
        )
        return [purpose._name for purpose in usage.value]

    assert purposes("server") == ["serverAuth"]
    assert purposes("client-0") == ["clientAuth"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_openssl_accepts_them(tmp_path: Path) -> None:
    make_certificates(tmp_path, hosts=["a"], num_clients=1)
    files = [str(tmp_path / name) for name in ("server.pem", "client-0.pem")]
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(tmp_path / "ca.pem"), *files]
    subprocess.run(command, check=True, capture_output=True)


def test_more_clients_get_certificates_of_the_same_ca(tmp_path: Path) -> None:
    make_certificates(tmp_path, hosts=["a"], num_clients=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    made = make_certificates(tmp_path, hosts=[], num_clients=2)
    assert [path.name for path in made] == ["client-1.pem", "client-1.key"]
    assert {path: path.read_bytes() for path in before} == before
    assert certificate(made[0]).issuer == certificate(tmp_path / "ca.pem").subject
    certificate(made[0]).verify_directly_issued_by(certificate(tmp_path / "ca.pem"))


def test_certificates_do_not_outlive_their_ca(tmp_path: Path) -> None:
    make_certificates(tmp_path, hosts=["a"], days=36500)
    ca, server = certificate(tmp_path / "ca.pem"), certificate(tmp_path / "server.pem")
    assert server.not_valid_after_utc == ca.not_valid_after_utc


def test_a_pair_belongs_together(tmp_path: Path) -> None:
    make_certificates(tmp_path, hosts=[], num_clients=1)
    key = load_pem_private_key((tmp_path / "client-0.key").read_bytes(), None)
    assert key.public_key() == certificate(tmp_path / "client-0.pem").public_key()
    ssl.create_default_context().load_cert_chain(
        tmp_path / "client-0.pem", tmp_path / "client-0.key"
    )


def test_a_second_server_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    make_certificates(tmp_path, hosts=["a"])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"has a server\.pem already"):
        make_certificates(tmp_path, hosts=["b"], num_clients=2)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "host", ["a b", "é", "", "a..b", "-a", "a:9400", "*.*.a", "a" * 64, "256.1.1.1", "3"]
)
def test_what_is_no_host_is_refused_before_anything_is_made(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="neither an IP address nor"):
        make_certificates(tmp_path / "new", hosts=["fine", host])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_all_addresses_are_no_host(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="stands for all addresses"):
        make_certificates(tmp_path / "new", hosts=[host])
    assert not (tmp_path / "new").exists()


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    """Break it: open ca.pem for writing without exclusive creation."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "ca.pem").symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(ConfigError, match="File exists"):
        make_certificates(tmp_path / "made", hosts=["a"])
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "ca.pem"]


@pytest.mark.parametrize("broken", ["no key", "other key", "no certificate"])
def test_a_ca_that_cannot_issue_is_named(tmp_path: Path, broken: str) -> None:
    make_certificates(tmp_path, hosts=[])
    if broken == "no key":
        (tmp_path / "ca.key").unlink()
    elif broken == "other key":
        make_certificates(tmp_path / "other", hosts=[])
        shutil.copy(tmp_path / "other" / "ca.key", tmp_path / "ca.key")
    else:
        (tmp_path / "ca.pem").write_text("hello")
    with pytest.raises(ConfigError, match=str(tmp_path)):
        make_certificates(tmp_path, hosts=["a"])
    assert not (tmp_path / "server.pem").exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        make_certificates(tmp_path / "file" / "below", hosts=["a"])


def test_the_command(call: Call, tmp_path: Path) -> None:
    code, _ = call("certificates", str(tmp_path), "--host", "127.0.0.1", "--clients", "1")
    assert code == 0
    assert (tmp_path / "server.pem").is_file()
    assert (tmp_path / "client-0.key").is_file()
    code, said = call("certificates", str(tmp_path))
    assert code == 2
    assert "--host NAME for a server's certificate" in said
