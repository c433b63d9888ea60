from __future__ import annotations

import pytest

from fedsplit.config import NodeConfig
from fedsplit.errors import ConfigError


def test_what_a_simulation_gives_is_accepted() -> None:
    node = NodeConfig.from_flat({"partition-id": 3, "num-partitions": 10})
    assert (node.partition_id, node.data_path, node.device) == (3, "", "")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "partition-id"),
        ({"partition-id": -1}, "partition-id = -1"),
        ({"partition-id": "0"}, "partition-id = '0': must be a whole number"),
        ({"partition-id": 0, "data_pth": "x"}, "did you mean 'data-path'?"),
        ({"partition-id": 0, "channel-address": "https://a:1"}, "channel-address = 'https://a:1'"),
        ({"partition-id": 0, "channel-address": "a:"}, "or a host alone"),
        ({"partition-id": 0, "channel-address": " 192.0.2.1"}, "or a host alone"),
        ({"partition-id": 0, "data-path": ""}, "data-path = '': must not be empty"),
        ({"partition-id": 0, "certificate": "c.pem"}, "must be set together"),
        ({"partition-id": 0, "private-key": "c.key"}, "must be set together"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], said: str) -> None:
    """A key that is mistyped would otherwise train on other data without a word."""
    with pytest.raises(ConfigError) as raised:
        NodeConfig.from_flat(values)
    assert said in str(raised.value)
    asked = values.get("partition-id") != 0
    assert ("--node-config 'partition-id=0'" in str(raised.value)) == asked


@pytest.mark.parametrize(
    "address", ["a", "a.b:9400", "192.0.2.1", "::1", "[::1]", "[::1]:9400", ""]
)
def test_a_split_server_is_named_with_or_without_a_port(address: str) -> None:
    assert (
        NodeConfig.from_flat({"partition-id": 0, "channel-address": address}).channel_address
        == address
    )
