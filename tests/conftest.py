"""Runs of a few seconds, for tests of whole runs."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# What is imported here, every process of a test session imports: nothing large.
if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

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
    "data.max-train-samples": 112,
    "data.max-test-samples": 50,
}


FLOWER_RUNS = "tests/e2e/"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Say what ``pytest -n 3 --dist loadfile`` keeps in one process.

    The tests of a file, so that they share the runs of `run`; and all that start Flower, so that
    they share a SuperLink and never start Ray twice at a time. By node ids, because marks such as
    ``xdist_group`` do not reach xdist 3.8 under pytest 9.2.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc] # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return FLOWER_RUNS if file.startswith(FLOWER_RUNS) else file

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the garbage collector look at what tests make, and not at what is collected here.

    It would take a third of the time that tests are collected in.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Let what is collected go: extension modules complain of what is left at the end."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what takes long begin first, so that no process is left with it at the end.

    First what starts Flower; then files with a test that has a timeout of its own, which takes
    minutes; then those with the most slow tests. Within a file the order stays.
    """
    long = {item.path for item in items if item.get_closest_marker("timeout")}
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(
        key=lambda item: (
            not item.nodeid.startswith(FLOWER_RUNS),
            item.path not in long,
            -slow[item.path],
        )
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a skipped test fail where FEDSPLIT_SKIP_NOTHING is set, as in CI."""
    report = yield
    if report.skipped and os.environ.get("FEDSPLIT_SKIP_NOTHING"):
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run TINY with overrides; the same overrides give the same finished run.

    Without pictures, which would take a third of its time, unless it is to be `drawn`.
    """
    from fedsplit import simulate

    finished: dict[str, Result] = {}

    def once(*, again: bool = False, drawn: bool = False, **overrides: object) -> Result:
        key = repr((drawn, sorted(overrides.items())))
        if again or key not in finished:
            output_dir = tmp_path_factory.mktemp("runs")
            with pytest.MonkeyPatch.context() as patch:
                _shorten(patch, drawn=drawn)
                finished[key] = simulate({**TINY, "output-dir": str(output_dir)}, **overrides)
        return finished[key]

    return once


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, object]:
    return {**TINY, "output-dir": str(tmp_path / "runs")}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs of this test make no pictures, and compute no costs twice, as those of `run`."""
    _shorten(monkeypatch)


def _shorten(patch: pytest.MonkeyPatch, *, drawn: bool = False) -> None:
    """Leave out of runs what takes half of a small one: pictures, and costs that are known."""
    from fedsplit.results.plots import draw_or_warn
    from tests.known import replacements

    patch.setattr("fedsplit.experiment.draw_or_warn", draw_or_warn if drawn else _draw_nothing)
    for name, replacement in replacements().items():
        patch.setattr(name, replacement)


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
        if not Path.cwd().is_relative_to(tmp_path):
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
