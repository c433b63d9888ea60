from __future__ import annotations

from typing import get_args

import pytest

from fedsplit.config import Config, NetworkConfig, Profile
from fedsplit.errors import ConfigError
from fedsplit.links import PROFILES, Link, link_of

CUSTOM = {
    "network.profile": "custom",
    "network.uplink-mbps": 8.0,
    "network.downlink-mbps": 80.0,
    "network.latency-ms": 5.0,
}


def test_seconds_by_hand() -> None:
    link = Link(uplink_mbps=8.0, downlink_mbps=80.0, latency_ms=5.0)
    seconds = link.seconds(
        uplink_bytes=3_000_000, downlink_bytes=20_000_000, uplink_messages=7, downlink_messages=3
    )
    assert seconds == pytest.approx(3.0 + 2.0 + 10 * 0.005)


def test_a_link_that_carries_nothing_takes_no_time() -> None:
    for link in PROFILES.values():
        nothing = link.seconds(
            uplink_bytes=0, downlink_bytes=0, uplink_messages=0, downlink_messages=0
        )
        assert nothing == 0


def test_every_profile_of_the_config_has_its_link() -> None:
    assert {*PROFILES, "none", "custom"} == set(get_args(Profile))
    assert link_of(NetworkConfig()) is None
    assert link_of(NetworkConfig(profile="wifi")) is PROFILES["wifi"]
    assert link_of(Config.load(CUSTOM).network) == Link(8.0, 80.0, 5.0)


def test_profiles_go_from_fast_to_slow() -> None:
    links = [PROFILES[name] for name in ("lan", "wifi", "4g")]
    assert sorted(links, key=lambda link: -link.uplink_mbps) == links
    assert sorted(links, key=lambda link: link.latency_ms) == links


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"network.uplink-mbps": 0.0},
            "network.profile = 'custom' needs network.uplink-mbps above 0",
        ),
        (
            {"network.uplink-mbps": 0.0, "network.downlink-mbps": 0.0},
            "needs network.uplink-mbps and network.downlink-mbps above 0",
        ),
        (
            {"network.profile": "wifi"},
            "network.uplink-mbps = 8, network.downlink-mbps = 80, network.latency-ms = 5 has no",
        ),
        (
            {"network.profile": "none", "network.latency-ms": 0.0},
            "or set network.profile = 'custom'",
        ),
        ({"network.latency-ms": -1.0}, "network.latency-ms = -1"),
        ({"network.profile": "5g"}, "network.profile = '5g'"),
    ],
)
def test_what_a_config_must_not_say(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Config.load(CUSTOM, changes)
