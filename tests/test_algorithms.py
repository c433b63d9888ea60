from __future__ import annotations

import os
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
from flwr.app import ArrayRecord, Message, MetricRecord

import strategies
from fedsplit import Config
from fedsplit.algorithms import strategy_class
from fedsplit.checking import check
from fedsplit.errors import ConfigError
from fedsplit.fields import Metric
from fedsplit.split.client_rules import OwnBottom, SplitClient, WholeModel
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.in_turn import InTurn
from strategies.base import FederatedStrategy
from strategies.sflv1 import SFLV1
from tests.conftest import TINY
from tests.extensions.local_loss import LocalLoss


def test_a_strategy_has_its_name_or_that_of_its_class() -> None:
    for name, kind in strategies.STRATEGIES.items():
        assert strategy_class(name) is kind
    assert strategy_class("tests.extensions.local_loss:LocalLoss") is LocalLoss


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "form": ({"strategy": "sflv9"}, "must be one of sequential.*did you mean 'sflv"),
    "module": (
        {"strategy": "no_such_module:X"},
        "strategy = 'no_such_module:X' cannot be imported",
    ),
    "name": ({"strategy": "tests.extensions.int8:X"}, "has no attribute 'X'"),
    "kind": ({"strategy": "tests.extensions.int8:Int8"}, "is not a class derived from strategies"),
    "halves": ({"strategy": f"{__name__}:Torn"}, "client_rule = WholeModel and update_rule = Per"),
    "half": ({"strategy": f"{__name__}:NoRule"}, "has client_rule = 3, which is not a class"),
    "codec": (
        {"codec.uplink": "tests.extensions.noise:Noise"},
        "derived from fedsplit.split.codec",
    ),
    "codec form": ({"codec.uplink": "int8"}, "must be 'none', or name your own"),
    "defence": ({"defence.name": "json:dumps"}, "cannot be made without arguments"),
    "unsplit": (
        {"strategy": "full", "codec.uplink": "tests.extensions.int8:Int8"},
        "codec.uplink = .* has no effect with strategy = 'full'",
    ),
}


@pytest.mark.parametrize(("keys", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_extension_is_refused_before_anything_runs(
    keys: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check(Config.load(TINY, keys))


@pytest.mark.parametrize("often", [0, -1, 1.5, True, "2"])
def test_steps_per_batch_is_a_whole_number_from_1(often: object) -> None:
    """Break it: take what is given; a bound of 0 steps would refuse every batch."""
    rule = type("Often", (SplitClient,), {"steps_per_batch": often, "__module__": __name__})
    globals()["Often"] = rule
    globals()["Oftener"] = type("Oftener", (SFLV1,), {"client_rule": rule})
    words = f"rule Often with steps_per_batch = {re.escape(repr(often))}. Set it to how often"
    with pytest.raises(ConfigError, match=words):
        strategy_class(f"{__name__}:Oftener")


class Torn(FederatedStrategy):
    """Halves that do not fit together."""

    client_rule = WholeModel
    update_rule = PerParticipantCopies


class NoRule(SFLV1):
    """Half a strategy."""

    client_rule = 3  # type: ignore[assignment]


def test_a_package_of_the_users_called_strategies_is_refused(tmp_path: Path) -> None:
    """Break it: leave out the check; the import then fails with "No module named"."""
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "__init__.py").write_text("")
    root = Path(__file__).parents[1]
    command = "from fedsplit.cli import main; main()"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            command,
            "run",
            str(root / "configs/full.toml"),
            "--engine=inprocess",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "'strategies' of fedsplit is hidden" in done.stderr
    assert str(tmp_path / "strategies") in done.stderr
    assert "Rename" in done.stderr


class _Server(PerParticipantCopies):
    metrics = LocalLoss.client_rule.metrics


class Unaggregated(SFLV1):
    """Says that it does not aggregate, and does."""

    aggregates = False


class Keeping(SFLV1):
    """Averages what its clients keep."""

    client_rule = OwnBottom


class Pooled(SFLV1):
    """Says that it pools images, and splits."""

    pooled = True


class Twice(LocalLoss):
    """Measures one metric at both ends."""

    update_rule = _Server


class Hanging(FederatedStrategy):
    """Lets its participants wait for each other, without all of them at work."""

    update_rule = InTurn


class _Abstract(PerParticipantCopies, ABC):
    @abstractmethod
    def missing(self) -> None: ...


class Unfinished(SFLV1):
    """Has a rule that cannot be made."""

    update_rule = _Abstract


class _Untuple(SplitClient):
    metrics = Metric("norm", "norm")  # type: ignore[assignment]


class Untuple(SFLV1):
    """Forgets a comma."""

    client_rule = _Untuple


class _Uncombined(SplitClient):
    metrics = (Metric("norm", "norm", over_clients="none"),)


class Uncombined(SFLV1):
    """Does not say how a metric of several clients is combined."""

    client_rule = _Uncombined


class OwnAggregation(SFLV1):
    """Does what it says."""

    aggregates = False

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return None, None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Unaggregated", "aggregates = False, but aggregates in its aggregate_train. Override"),
        (
            "Keeping",
            "OwnBottom with keeps_weights = True, but sends.*Derive it from strategies.sflv3.SFLV3",
        ),
        ("Pooled", "pooled = True, which has no effect with an update rule"),
        ("Hanging", "update_rule = InTurn, whose participants wait.*Set synchronous = True"),
        ("Unfinished", "the rule _Abstract, which does not define missing"),
        ("Untuple", r"the rule _Untuple with metrics = .*\(Metric\(...\),\)"),
        ("Uncombined", "the metric 'norm' of over_clients = 'none'"),
        ("Twice", "the metric 'sent_batches' in both its rules"),
    ],
)
def test_what_would_be_ignored_is_refused(name: str, words: str) -> None:
    """Break it: run them; each gives the numbers of another algorithm."""
    with pytest.raises(ConfigError, match=words):
        strategy_class(f"{__name__}:{name}")
    assert strategy_class(f"{__name__}:OwnAggregation") is OwnAggregation


def test_a_client_rule_that_was_defined_again_after_its_strategy_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Break it: send the name; server and clients then use two different classes."""
    module = ModuleType("own_notebook")
    monkeypatch.setitem(sys.modules, "own_notebook", module)
    code = "from fedsplit.split.client_rules import SplitClient\nclass Mine(SplitClient): pass\n"
    strategy = "from strategies.sflv1 import SFLV1\nclass S(SFLV1): client_rule = Mine\n"
    exec(code + strategy, vars(module))
    assert strategy_class("own_notebook:S").client_rule is module.Mine
    exec(code, vars(module))
    with pytest.raises(ConfigError, match=r"own_notebook:Mine, but that name does not lead to"):
        strategy_class("own_notebook:S")
    exec(strategy, vars(module))
    assert strategy_class("own_notebook:S").client_rule is module.Mine
