"""Runs of a few seconds, for tests of whole runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# What is imported here, every process of a test session imports: nothing large.
if TYPE_CHECKING:
    from fedsplit import Result

Run = Callable[..., "Result"]
Call = Callable[..., tuple[int, str]]

# Unequal shards, several epochs, an optimizer with a state of its own.
TINY: Mapping[str, object] = {
    "strategy": "sflv1",
    "num-clients": 4,
    "num-server-rounds": 2,
    "local-epochs": 2,
    "batch-size": 8,
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning-rate": 0.02,
    "max-concurrent-clients": 2,
    "seed": 7,
    "data.partitioner": "dirichlet",
    "data.alpha": 0.7,
    "data.min-partition-size": 15,
    "data.max-train-samples": 160,
    "data.max-test-samples": 50,
}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say what ``pytest -n 2 --dist loadgroup`` keeps in one process, and what it gives out first.

    Tests that share the runs of `run` stay together, so that no run is made twice. They and the
    slow ones go first, so that no process is left with a long one at the end.
    """
    if not getattr(config.option, "loadgroup", False):  # set in xdist's processes only
        return
    for item in items:
        if "run" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("runs"))
    items.sort(
        key=lambda item: (
            item.get_closest_marker("xdist_group") is None,
            item.get_closest_marker("slow") is None,
        )
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run TINY with overrides; the same overrides give the same finished run.

    Without pictures, which would take a third of its time, unless it is to be `drawn`.
    """
    from fedsplit import experiment, simulate

    draw = vars(experiment)["_draw"]
    finished: dict[str, Result] = {}

    def once(*, again: bool = False, drawn: bool = False, **overrides: object) -> Result:
        key = repr((drawn, sorted(overrides.items())))
        if again or key not in finished:
            output_dir = tmp_path_factory.mktemp("runs")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(experiment, "_draw", draw if drawn else _draw_nothing)
                finished[key] = simulate({**TINY, "output-dir": str(output_dir)}, **overrides)
        return finished[key]

    return once


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, object]:
    return {**TINY, "output-dir": str(tmp_path / "runs")}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs of this test make no pictures, as those of `run`."""
    monkeypatch.setattr("fedsplit.experiment._draw", _draw_nothing)


def _draw_nothing(path: Path, plot: Callable[[Path], None]) -> None:
    """Leave a picture out."""


@pytest.fixture
def plain_threads() -> Iterator[None]:
    """One thread, as the engines have it: the number can change the last bits of a sum."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(result: Result) -> dict[str, Any]:
    """Return every weight of a run's final model."""
    return dict(result.model.merge().state_dict())


def distance(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Return the largest difference of any two weights of one name."""
    assert set(first) == set(second)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Call:
    """Run the command line in this process; returns the exit code and stderr."""
    from fedsplit import cli

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fedsplit", *arguments])
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write the tiny config to a file."""
    path = tmp_path / "tiny.toml"
    values = {**TINY, "output-dir": str(tmp_path / "runs")}
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return path
