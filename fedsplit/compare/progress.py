"""The progress of a comparison: bars on a terminal, a line for each run in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from fedsplit.compare.runs import PlannedRun
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.text import counted, minutes


class CompareProgress:
    """Shows which runs are done or going on, and the time left for all of them.

    Parameters
    ----------
    runs : Sequence[PlannedRun]
        All runs.
    finished : Collection[PlannedRun]
        The runs that had finished before.
    jobs : int
        The number of runs at a time.
    console : Console
        Shows the progress.
    clock : Callable[[], float]
        Seconds that never run backwards.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        finished: Collection[PlannedRun],
        jobs: int,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._jobs = jobs
        self._clock = clock
        self._total = len(runs)
        self._done = len(finished)
        self._waiting = [run for run in runs if run not in finished]
        self._started: dict[PlannedRun, float] = {}
        self._rounds_before: dict[PlannedRun, int] = {}
        self._seconds_per_round: dict[tuple[str, str], float] = {}
        self._tasks: dict[PlannedRun, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[shown]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._all = self._bars.add_task("all runs", total=self._total, shown="")

    def __enter__(self) -> CompareProgress:
        self._bars.start()
        already = f", {self._done} of them already finished" if self._done else ""
        self._say(f"{counted(self._total, 'run')}{already}, {self._jobs} at a time")
        self.refresh()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begins(self, run: PlannedRun) -> None:
        """Record that a run begins."""
        self._waiting.remove(run)
        self._started[run] = self._clock()
        self._rounds_before[run] = finished_rounds(run.directory)
        rounds = run.config.num_server_rounds
        self._tasks[run] = self._bars.add_task(run.name, total=rounds, shown="")

    def ends(self, run: PlannedRun, fault: str | None) -> None:
        """Show that a run has ended, and how."""
        seconds = self._clock() - self._started.pop(run)
        self._bars.remove_task(self._tasks.pop(run))
        self._done += 1
        if fault is None:
            rounds = run.config.num_server_rounds - self._rounds_before[run]
            self._seconds_per_round[run.setting, run.label] = seconds / max(1, rounds)
        left = self.seconds_left()
        self._say(
            f"{self._done:>{len(str(self._total))}}/{self._total}  {run.name}  "
            f"{'done' if fault is None else 'FAILED'} in {minutes(seconds)}"
            + (f", {minutes(left)} left" if left else "")
        )
        if fault is not None:
            self._say(f"  {fault}")
        self.refresh()

    def refresh(self) -> None:
        """Update the rounds of the runs that are going on."""
        for run, task in self._tasks.items():
            done, rounds = finished_rounds(run.directory), run.config.num_server_rounds
            self._bars.update(task, completed=done, shown=f"round {done}/{rounds}")
        left = self.seconds_left()
        shown = f"{self._done}/{self._total}" + (f", {minutes(left)} left" if left else "")
        self._bars.update(self._all, completed=self._done, shown=shown)
        self._bars.refresh()

    def seconds_left(self) -> float | None:
        """Return an estimate, or None before the first round.

        A round is assumed to last as long as in the last run of the same variant and setting. If
        there is none, it is assumed to last as long as the mean round so far.
        """
        now = self._clock()
        going = {run: finished_rounds(run.directory) for run in self._started}
        paces = {
            (run.setting, run.label): (now - self._started[run]) / made
            for run, done in going.items()
            if (made := done - self._rounds_before[run]) > 0
        } | self._seconds_per_round
        if not paces:
            return None
        mean = sum(paces.values()) / len(paces)
        rounds = [(run, run.config.num_server_rounds - done) for run, done in going.items()]
        rounds += [(run, run.config.num_server_rounds) for run in self._waiting]
        work = sum(left * paces.get((run.setting, run.label), mean) for run, left in rounds)
        return work / self._jobs

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def finished_rounds(directory: Path) -> int:
    """Return the number of rounds that a run has finished."""
    try:
        return RunDirectory(directory).rounds_path.read_bytes().count(b"\n")
    except OSError:  # it has not finished a round
        return 0
