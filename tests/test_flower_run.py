from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsplit import Config, checking
from fedsplit.errors import ConfigError, RunError
from fedsplit.flower_run import federation_config, run_with_flower


@pytest.mark.parametrize(
    ("clients", "at_once", "cores", "expected"),
    [
        (10, 0, 2, "num-supernodes=10 client-resources-num-cpus=1 init-args-num-cpus=2"),
        (10, 4, 2, "num-supernodes=10 client-resources-num-cpus=1 init-args-num-cpus=4"),
        (3, 0, 8, "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=3"),
        (3, 99, 2, "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=3"),
    ],
)
def test_a_federation_fits_the_config(
    monkeypatch: pytest.MonkeyPatch, clients: int, at_once: int, cores: int, expected: str
) -> None:
    monkeypatch.setattr(checking, "available_cores", lambda: cores)
    config = Config.from_flat({"num-clients": clients, "max-concurrent-clients": at_once})
    assert federation_config(config) == expected


@pytest.mark.parametrize(("strategy", "at_once"), [("sflv2", 5), ("parallel", 5), ("sflv1", 2)])
def test_strategies_that_go_step_by_step_have_all_participants_at_once(
    monkeypatch: pytest.MonkeyPatch, strategy: str, at_once: int
) -> None:
    monkeypatch.setattr(checking, "available_cores", lambda: 2)
    config = Config.from_flat({"strategy": strategy, "num-clients": 10, "fraction-train": 0.5})
    assert federation_config(config).endswith(f"init-args-num-cpus={at_once}")


class _Flwr:
    """Stands in for the command `flwr`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, status: int, summary: bool) -> None:
        self.command: list[str] = []
        self.values: dict[str, object] = {}
        self.path = ""
        self._status, self._summary = status, summary
        monkeypatch.setattr(subprocess, "run", self._run)

    def _run(self, command: list[str], *, check: bool, env: dict[str, str]) -> SimpleNamespace:
        assert not check
        self.command, self.path = command, env["PATH"]
        self.values = tomllib.loads(Path(command[5]).read_text(encoding="utf-8"))
        run_dir = Path(str(self.values["output-dir"])) / str(self.values["run-name"])
        run_dir.mkdir(parents=True)
        if self._summary:
            (run_dir / "summary.json").write_text("{}")
        return SimpleNamespace(returncode=self._status)


def test_the_command_is_flwr_run(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flwr = _Flwr(monkeypatch, status=0, summary=True)
    config = Config.load(tiny)
    run_with_flower(config, app_dir=tmp_path)

    assert flwr.command == [
        *(str(Path(sys.executable).parent / "flwr"), "run", str(tmp_path), "--stream"),
        *("--run-config", flwr.command[5], "--federation-config"),
        "num-supernodes=4 client-resources-num-cpus=1 init-args-num-cpus=2",
    ]
    assert flwr.path.split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert not Path(flwr.command[5]).exists()
    sent = Config.from_flat(flwr.values)
    assert sent.run_name.startswith("sflv1-fashion-mini-")
    assert sent == Config.load(config, {"run-name": sent.run_name})


@pytest.mark.parametrize(("status", "summary"), [(1, True), (0, False)])
def test_a_run_that_did_not_finish_is_an_error(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, status: int, summary: bool
) -> None:
    _Flwr(monkeypatch, status=status, summary=summary)
    with pytest.raises(RunError, match=r"'lost' did not finish.*runs/lost.*flwr log") as caught:
        run_with_flower(Config.load(tiny, {"run-name": "lost"}), app_dir=Path())
    assert caught.value.exit_code == 1


def test_what_cannot_run_does_not_start_flower(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    flwr = _Flwr(monkeypatch, status=0, summary=True)
    with pytest.raises(ConfigError, match="batch-size = 99 is larger than the shard"):
        run_with_flower(Config.load(tiny, {"batch-size": 99}), app_dir=Path())
    assert flwr.command == []
