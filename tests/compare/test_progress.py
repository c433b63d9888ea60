from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from fedsplit.compare.progress import CompareProgress
from fedsplit.compare.runs import PlannedRun
from fedsplit.config import Config


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def a_run(tmp_path: Path, label: str, seed: int, rounds: int = 4) -> PlannedRun:
    own = {"seed": seed, "output-dir": str(tmp_path), "run-name": f"{label}{seed}"}
    return PlannedRun("", label, seed, Config.load({**own, "num-server-rounds": rounds}))


def at_round(run: PlannedRun, number: int) -> None:
    run.directory.mkdir(exist_ok=True)
    (run.directory / "rounds.jsonl").write_text("{}\n" * number)


def test_the_time_left_covers_all_runs(tmp_path: Path) -> None:
    slow1, quick1, slow2, quick2 = (
        a_run(tmp_path, label, seed) for seed in (1, 2) for label in ("slow", "quick")
    )
    shown, clock = io.StringIO(), Clock()
    progress = CompareProgress(
        [slow1, quick1, slow2, quick2], [], 1, Console(file=shown, width=80), clock
    )
    with progress:
        assert progress.seconds_left() is None
        progress.begins(slow1)
        clock.now = 20
        at_round(slow1, 2)
        # 10 seconds for a round, as far as is known: 2 rounds of this run and 12 more.
        assert progress.seconds_left() == pytest.approx(140)
        clock.now = 40
        at_round(slow1, 4)
        progress.ends(slow1, None)
        progress.begins(quick1)
        clock.now = 44
        at_round(quick1, 4)
        progress.ends(quick1, None)
        # The second seed takes as long as the first: 40 and 4 seconds.
        assert progress.seconds_left() == pytest.approx(44)
        progress.begins(slow2)
        progress.ends(slow2, "It broke.")
    lines = shown.getvalue().splitlines()
    assert lines[0] == "4 runs, 1 at a time"
    assert lines[1] == "1/4  slow1  done in 0:40, 2:00 left"
    assert lines[2] == "2/4  quick1  done in 0:04, 0:44 left"
    assert lines[3] == "3/4  slow2  FAILED in 0:00, 0:04 left"
    assert lines[4] == "  It broke."
    assert len(lines) == 5


def test_concurrent_runs_divide_the_time_left(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, "x", seed) for seed in range(4)]
    clock = Clock()
    progress = CompareProgress(runs, runs[:1], 2, Console(file=io.StringIO()), clock)
    progress.begins(runs[1])
    clock.now = 8
    progress.ends(runs[1], None)
    assert progress.seconds_left() == pytest.approx(2 * 8 / 2)


def test_a_terminal_shows_rounds(tmp_path: Path) -> None:
    run, shown = a_run(tmp_path, "x", 1), io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    with CompareProgress([run], [], 1, console) as progress:
        progress.begins(run)
        at_round(run, 3)
        progress.refresh()
        progress.ends(run, None)
    assert "round 3/4" in shown.getvalue()


def test_rounds_of_an_earlier_start_count_as_done_but_not_for_the_pace(tmp_path: Path) -> None:
    """Break it: divide the time by all rounds of the run."""
    one, clock = a_run(tmp_path, "one", 1, rounds=10), Clock()
    at_round(one, 6)
    progress = CompareProgress([one], [], 1, Console(file=io.StringIO()), clock)
    with progress:
        progress.begins(one)
        assert progress.seconds_left() is None
        clock.now = 20
        at_round(one, 8)
        assert progress.seconds_left() == pytest.approx(20)
