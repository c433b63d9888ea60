from __future__ import annotations

import io
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from fedsplit.compare import runner
from fedsplit.compare.runner import compare
from fedsplit.compare.runs import make_plan
from fedsplit.config import Config
from fedsplit.errors import RunError
from fedsplit.report.comparison import Comparison
from tests.compare.test_runs import SETTINGS, SMALL, VARIANTS, write
from tests.report.examples import write_run


class Worker:
    """Stands in for a process: it writes runs without training."""

    made: ClassVar[list[str]]
    failing: ClassVar[str]
    error: ClassVar[BaseException]

    def __init__(self, kept_open: int) -> None:
        self.alive = True

    def run(self, config: Path, log: Path) -> None:
        wanted = Config.load(config)
        self.made.append(wanted.run_name)
        if wanted.run_name == self.failing:
            self.alive = False
            raise self.error
        write_run(wanted)

    def is_alive(self) -> bool:
        return self.alive

    def stop(self) -> None:
        self.alive = False


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[Worker]:
    class Mine(Worker):
        made: ClassVar[list[str]] = []
        failing = ""
        error = RunError("Every participant failed.")

    monkeypatch.setattr(runner, "WorkerProcess", Mine)
    monkeypatch.setattr("fedsplit.compare.directory.made_with", lambda kept: None)
    return Mine


def run(tmp_path: Path, text: str = SMALL + VARIANTS, jobs: int = 1) -> Comparison:
    plan = make_plan(write(tmp_path, text), tmp_path)
    return compare(plan, jobs=jobs, command="fedsplit compare", console=Console(file=io.StringIO()))


def test_runs_are_made_once_and_new_variants_later(tmp_path: Path, worker: type[Worker]) -> None:
    first = run(tmp_path)
    assert worker.made == ["split-seed3", "not-at-all-seed3", "split-seed1", "not-at-all-seed1"]
    assert first.failures == {}
    assert Comparison.read(tmp_path / "small") == first
    assert first.base == {
        "num-clients": 4,
        "batch-size": 8,
        "data.max-train-samples": 160,
        "data.max-test-samples": 50,
    }
    run(tmp_path)
    assert len(worker.made) == 4

    again = run(tmp_path, SMALL + VARIANTS + '[[variants]]\nlabel = "v2"\nstrategy = "sflv2"')
    assert worker.made[4:] == ["v2-seed3", "v2-seed1"]
    assert len(again.runs) == 6
    assert again.wall_seconds >= first.wall_seconds


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path, worker: type[Worker]) -> None:
    worker.failing = "not-at-all-seed3"
    failed = run(tmp_path)
    assert failed.failures == {"runs/not-at-all-seed3": "Every participant failed."}
    assert len(worker.made) == 4
    worker.failing = ""
    assert run(tmp_path).failures == {}
    assert worker.made[4:] == ["not-at-all-seed3"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_interruption_says_how_to_continue(
    tmp_path: Path, worker: type[Worker], jobs: int
) -> None:
    worker.failing, worker.error = "split-seed1", KeyboardInterrupt()
    with pytest.raises(
        RunError,
        match=r"Interrupted with [1-3] runs? left\. Finished runs and rounds are kept: give the",
    ):
        run(tmp_path, jobs=jobs)
    worker.failing = ""
    assert run(tmp_path, jobs=jobs).failures == {}


def test_jobs_share_the_cores_and_every_run_is_made(
    tmp_path: Path, worker: type[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "available_cores", lambda: 6)
    run(tmp_path, SMALL + SETTINGS + VARIANTS, jobs=3)
    assert len(worker.made) == len(set(worker.made)) == 8
    configs = [Config.load(path) for path in (tmp_path / "small" / "configs").iterdir()]
    assert {config.max_concurrent_clients for config in configs} == {2}
