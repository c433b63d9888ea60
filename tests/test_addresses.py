from __future__ import annotations

import pytest

from fedsplit.addresses import address_fault, host_of, is_loopback, is_wildcard, port_of, with_port


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1:0", "localhost:65535", "[::1]:9400", "a.b:1", "A-1.b.:1", "split_server:1"),
        *("xn--mnchen-3ya.de:1", "[fe80::1%eth0]:1", "[::ffff:192.0.2.1]:1", "1and1.org:1"),
    ],
)
def test_addresses(address: str) -> None:
    assert address_fault(address) is None


@pytest.mark.parametrize(
    "address",
    [
        *("", "a", ":1", "a:", "a:x", "a:65536", "a:-1", "::1:1", "[::1:1", "::1]:1"),
        *("https://a:1", "a/b:1", "user@a:1", "a b:1", " a:1", "a\n:1", "a:1\n", "a..b:1", "-a:1"),
        *("m\xfcnchen.de:1", "a:\uff11", "a:0x1", "0:1", "127.1:1", "256.0.0.1:1", "[a]:1"),
        *("[127.0.0.1]:1", "127.0.0.1%0:1", "a:000001"),
    ],
)
def test_what_is_no_address_is_told(address: str) -> None:
    """Break it: take whatever stands before the last colon for a host."""
    assert (address_fault(address) or "").startswith("must ")


def test_an_ipv6_host_stands_in_brackets() -> None:
    assert (host_of("[::1]:9400"), port_of("[::1]:9400")) == ("::1", 9400)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.0.2.1:1", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
    ],
)
def test_loopback(address: str, *, expected: bool) -> None:
    assert is_loopback(address) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *((a, True) for a in ("0.0.0.0:1", "[::]:1", "[::0]:1", "[0:0:0:0:0:0:0:0]:1")),
        *(("[::ffff:0.0.0.0]:1", True), ("[::ffff:192.0.2.1]:1", False)),
        *((a, False) for a in ("", "a:1", "[::1]:1", "192.0.2.1:1")),
    ],
)
def test_wildcards(address: str, *, expected: bool) -> None:
    """Break it: compare texts; a wildcard in another spelling would be told to clients."""
    assert is_wildcard(address) is expected


def test_port_0_takes_another() -> None:
    assert with_port("[::1]:0", 5) == "[::1]:5"
    assert with_port("a:1", 5) == "a:1"


def test_clients_are_told_the_form_of_a_host_that_certificates_have() -> None:
    """Break it: keep the host as it was written; no client accepts the certificate."""
    assert with_port("[0:0:0:0:0:0:0:1]:1", 5) == "[::1]:1"
    assert with_port("[2001:DB8::0001]:0", 5) == "[2001:db8::1]:5"
