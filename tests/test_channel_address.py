from __future__ import annotations

import pytest

from fedsplit.channel_address import check_address
from fedsplit.errors import ChannelError


@pytest.mark.parametrize(
    ("advertised", "allowed"),
    [
        ("direct:1", None),
        ("127.0.0.1:5000", None),
        ("127.8.0.1:5000", None),
        ("localhost:5000", None),
        ("[::1]:5000", None),
        ("split.example.org:5000", "split.example.org:5000"),
        ("split.example.org:5000", "split.example.org"),
        ("Split.Example.ORG.:5000", "split.example.org"),
        ("10.0.0.7:5000", "10.0.0.7"),
        ("[fd00::7]:5000", "[fd00::7]"),
        ("[fd00::7]:5000", "fd00:0::7"),
        ("[fd00::7]:5000", "[fd00::7]:5000"),
        ("127.0.0.1:5000", "127.0.0.1"),
    ],
)
def test_a_client_connects_to_its_own_machine_or_to_what_it_is_told(
    advertised: str, allowed: str | None
) -> None:
    assert check_address(advertised, allowed) == advertised


@pytest.mark.parametrize(
    ("advertised", "allowed"),
    [
        ("10.0.0.7:5000", None),
        ("split.example.org:5000", None),
        ("localhost.evil.example:5000", None),
        ("127.0.0.1.evil.example:5000", None),
        ("[fd00::7]:5000", None),
        ("0.0.0.0:5000", None),
        ("unix:/run/docker.sock", None),
        ("dns:///split.example.org:5000", None),
        ("split.example.org:5001", "split.example.org:5000"),
        ("evil.example:5000", "split.example.org"),
        ("split.example.org.evil.example:5000", "split.example.org"),
        ("127.0.0.1:5000", "split.example.org"),
        ("split.example.org", "split.example.org"),
        ("", None),
        ("", "split.example.org"),
    ],
)
def test_it_connects_to_nothing_else(advertised: str, allowed: str | None) -> None:
    """Break it: compare the beginnings of addresses, or let None allow everything."""
    with pytest.raises(ChannelError) as caught:
        check_address(advertised, allowed)
    assert repr(advertised) in str(caught.value)
    assert allowed is None or repr(allowed) in str(caught.value) or not advertised.count(":")


def test_the_remedy_is_named() -> None:
    with pytest.raises(ChannelError, match=r"--node-config 'channel-address=\"10.0.0.7:5000\"'"):
        check_address("10.0.0.7:5000", None)
