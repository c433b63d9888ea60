from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsplit import simulate
from fedsplit.config import Config
from fedsplit.input_spec import InputSpec
from fedsplit.models import load_model, save_model
from fedsplit.own_code import code_digest
from tests.conftest import Call

OWN = """
from fedsplit.split.client_rules import SplitClient
from strategies.sflv1 import SFLV1

PENALTY = {penalty}

class Strategy(SFLV1):
    client_rule = SplitClient
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package of the user's own; what is imported from it is forgotten."""
    forget_mine()  # of another test, from another folder
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    write(tmp_path, 1)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    forget_mine()


def forget_mine() -> None:
    """Forget what was imported from any such package."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def write(app: Path, penalty: int) -> None:
    (app / "mine" / "strategy.py").write_text(OWN.format(penalty=penalty))


def digest(**keys: object) -> str | None:
    return code_digest(Config.from_flat({"strategy": "mine.strategy:Strategy"} | keys))


def test_only_the_users_own_modules_count(app: Path) -> None:
    ours = {"strategy": "strategies.sflv1:SFLV1", "aggregation.name": "json:loads"}
    assert code_digest(Config.from_flat(ours)) is None
    assert code_digest(Config.from_flat({"model.name": "timm:vit_small_patch16_224"})) is None
    assert digest() is not None


def test_the_function_that_a_trusted_model_names_counts(app: Path) -> None:
    """Break it: digest the values of the config only."""
    (app / "mine" / "model.py").write_text("from tests.models.own import make\n")
    saved = app / "saved"
    save_model(load_model("mine.model:make"), InputSpec(1, 28, 28, (0.5,), (0.5,)), saved)
    config = Config.from_flat({"model.name": str(saved), "model.trust": True})
    first = code_digest(config)
    assert first is not None
    write(app, 2)
    assert code_digest(config) != first


def test_each_file_of_the_package_counts(app: Path) -> None:
    """Break it: digest the named module only; it may import the one that changes."""
    first = digest()
    assert digest() == first
    (app / "mine" / "helper.py").write_text("A = 1")
    second = digest()
    write(app, 2)
    assert len({first, second, digest()}) == 3


def test_a_run_that_continues_with_other_code_says_so(
    app: Path, tiny: dict[str, object], capsys: pytest.CaptureFixture[str], undrawn: None
) -> None:
    """Break it: continue without a word, and no bit is that of an unbroken run."""
    keys = {**tiny, "strategy": "mine.strategy:Strategy", "run-name": "one"}
    first = simulate(keys, num_server_rounds=1)
    was = first.summary["code_sha256"]
    write(app, 2)
    second = simulate(resume=first.run_dir, num_server_rounds=2)
    assert "Your own code is not that with which this run began" in capsys.readouterr().err
    assert second.summary["code_sha256"] == f"{was}; from round 2: {digest()}"
    third = simulate(resume=first.run_dir, num_server_rounds=3)
    assert "Your own code" not in capsys.readouterr().err
    assert third.summary["code_sha256"] == second.summary["code_sha256"]


@pytest.mark.slow
def test_a_comparison_does_not_mix_results_of_two_versions(
    app: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: compare the configs only, and the old numbers stand for the new code."""
    monkeypatch.setenv("PYTHONPATH", str(app))  # for its processes
    config = tmp_path / "comparison.toml"
    config.write_text(
        "name = 'c'\nseeds = [1]\n[base]\nnum-clients = 2\nnum-server-rounds = 1\n"
        "data.max-train-samples = 64\ndata.max-test-samples = 50\n"
        "[[variants]]\nlabel = 'one'\nstrategy = 'mine.strategy:Strategy'\n"
    )
    command = ("compare", str(config), "--output-dir", str(tmp_path / "runs"))
    code, said = call(*command)
    assert code == 0, said
    assert call(*command)[0] == 0
    write(app, 2)
    code, said = call(*command)
    assert code == 2
    assert "differs in your own code, which has changed since" in said
    summary = json.loads(next((tmp_path / "runs").rglob("summary.json")).read_text())
    assert summary["code_sha256"]
