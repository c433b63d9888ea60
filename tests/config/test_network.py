from __future__ import annotations

import pytest

from fedsplit.config import Config
from fedsplit.errors import ConfigError

TLS = {"channel.certificate": "s.pem", "channel.private-key": "s.key"}


@pytest.mark.parametrize(
    "values",
    [
        {"channel.address": "127.8.8.8:9400"},
        {"channel.address": "localhost:65535"},
        {"channel.address": "[::1]:0", "channel.advertise": "localhost:0"},
        {**TLS, "channel.address": "192.0.2.1:9400"},
        {**TLS, "channel.address": "0.0.0.0:9400", "channel.advertise": "split.example.org:443"},
        {**TLS, "channel.client-ca": "c.pem", "channel.root-certificates": "c.pem"},
    ],
)
def test_addresses_that_are_accepted(values: dict[str, object]) -> None:
    flat = Config.from_flat(values).to_flat()
    assert {key: flat[key] for key in values} == values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"channel.address": "0.0.0.0:9400"},
            "  channel.address = '0.0.0.0:9400' is not a loopback address",
        ),
        (
            {"channel.advertise": "split.example.org:1"},
            "channel.advertise = 'split.example.org:1' is not a",
        ),
        ({"channel.address": "192.168.1.2:50"}, "nothing encrypts the channel"),
        ({"channel.address": "[::]:0"}, "nothing encrypts the channel"),
        ({"channel.address": ""}, "must not be empty"),
        ({"channel.address": "127.0.0.1"}, "must be host:port"),
        ({"channel.address": ":80"}, "must be host:port"),
        ({"channel.address": "[::1]:65536"}, "must be host:port with a port from 0 to 65535"),
        ({"channel.advertise": "a"}, "must be host:port"),
        (
            {"channel.certificate": "s.pem"},
            "channel.certificate and channel.private-key must be set together",
        ),
        (
            {"channel.private-key": "s.key"},
            "channel.certificate and channel.private-key must be set together",
        ),
        ({"channel.client-ca": "c.pem"}, "no effect without channel.certificate"),
        ({"channel.root-certificates": "c.pem"}, "no effect without channel.certificate"),
        (
            {**TLS, "channel.address": "[::]:9400"},
            "channel.address = '[::]:9400': clients cannot connect to it; set",
        ),
        (
            {**TLS, "channel.advertise": "0.0.0.0:9400"},
            "channel.advertise = '0.0.0.0:9400': clients cannot connect",
        ),
        ({**TLS, "channel.certificate": "a\0b"}, "must not contain the character NUL"),
    ],
)
def test_addresses_that_are_refused(values: dict[str, object], said: str) -> None:
    """Off this machine nothing travels unencrypted, and nobody is told a useless address."""
    with pytest.raises(ConfigError) as raised:
        Config.from_flat(values)
    assert said in str(raised.value)
