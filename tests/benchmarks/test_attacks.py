"""The attacks reach what they replace: a renamed method would leave a table of honest runs."""

from __future__ import annotations

import pytest

from benchmarks import attacks
from fedsplit.config import STRATEGY_NAMES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

SMALL = {
    "num-clients": 4,
    "data.max-train-samples": 80,
    "data.max-test-samples": 20,
    "num-server-rounds": 1,
}


@pytest.mark.parametrize("attack", [name for name in attacks.ATTACKS if name != "none"])
def test_each_attack_changes_a_run(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break it: let an attack replace nothing."""
    refused = {
        *("10 times the steps", "activations x 1e3", "activations x 1e30", "weights x 100"),
        *("1e15 examples claimed", "loss 0, all correct claimed"),
    }
    monkeypatch.setattr(attacks, "KEYS", {**attacks.KEYS, **SMALL})
    monkeypatch.setattr(attacks, "AVERAGED", {})
    outcome, honest = (attacks.one("sflv1", name, {}) for name in (attack, "none"))
    assert "refused" not in honest
    assert ("refused 1/1" in outcome) is (attack in refused)


def test_every_strategy_has_its_cases() -> None:
    """Robust aggregators meet what no check refuses, where there is something to aggregate."""
    found = list(attacks.cases(list(STRATEGY_NAMES), robust=True))
    assert len(set(found)) == len(found)
    assert {strategy for strategy, _, _ in found} == set(STRATEGY_NAMES)
    assert ("centralized", "none", "FedAvg") in found
    assert {s for s, _, name in found if name == "Krum"} == {
        *("full", "sflv1", "sflv2", "sflv3", "parallel"),
    }
    plain = list(attacks.cases(["sflv1"], robust=False))
    assert {name for _, _, name in plain} == {"FedAvg"}
    assert len(plain) == len(attacks.ATTACKS)


def test_the_table_has_what_was_found() -> None:
    found = {
        ("sflv1", "none", "FedAvg", "now"): "0.38",
        ("sflv1", "none", "Krum", "now"): "0.30",
        ("sflv1", "label flips", "FedAvg", "before"): "0.10",
    }
    assert attacks.table(found, ["full", "sflv1"]).splitlines()[2:] == [
        "| `sflv1` | none | - | 0.38 | - | 0.30 |",
        "| `sflv1` | label flips | 0.10 | - | - | - |",
    ]
