"""Make the runs of a comparison that have not finished, and record the results."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from fedsplit.compare.directory import find_runs, locked
from fedsplit.compare.progress import CompareProgress
from fedsplit.compare.runs import Plan, PlannedRun
from fedsplit.compare.worker import WorkerProcess
from fedsplit.config import Config, Scalar, config_toml
from fedsplit.errors import InterruptionError, RunError
from fedsplit.report.comparison import FILE_NAME, ComparedRun, Comparison
from fedsplit.results.text import counted
from fedsplit.threads import available_cores

_SECONDS_BETWEEN_LOOKS = 0.5


def compare(plan: Plan, *, jobs: int, command: str, console: Console) -> Comparison:
    """Make every run of a plan that has not finished, after the rounds that it has finished.

    Parameters
    ----------
    plan : Plan
        The checked plan.
    jobs : int
        The number of runs at a time, each in its own process. The results do not depend on it.
    command : str
        The command line, for the report.
    console : Console
        Shows the progress.

    Returns
    -------
    Comparison
        The record of the comparison, with the runs that failed.

    Raises
    ------
    ConfigError
        If the directory is in use, or holds other runs than the plan asks for.
    RunError
        If the comparison is interrupted.
    """
    with locked(plan.directory) as lock:
        found = find_runs(plan)
        comparison = _begin(plan, jobs=jobs, command=command)
        comparison.write(plan.directory)
        todo = [run for run in plan.runs if run not in found.finished]
        for run in todo:
            path = _config_path(plan, run)
            config = _sharing_cores(found.begun.get(run, run.config), min(jobs, len(todo)))
            path.write_text(config_toml(config, path), encoding="utf-8")
        progress = CompareProgress(plan.runs, found.finished, jobs, console)
        with progress, _workers(min(jobs, len(todo)), lock) as workers:
            _make_all(plan, todo, workers, progress, comparison)
        return comparison


def _begin(plan: Plan, *, jobs: int, command: str) -> Comparison:
    """Return the record of the plan, with the time that earlier starts have taken."""
    defaults = Config().to_flat()
    spent = 0.0
    if (plan.directory / FILE_NAME).is_file():
        spent = Comparison.read(plan.directory).wall_seconds
    asked = plan.asked
    shared: dict[str, Scalar] = {
        key: value for key, value in asked.base.items() if defaults[key] != value
    }
    return Comparison(
        name=asked.name,
        command=command,
        seeds=list(asked.seeds),
        base=shared,
        settings={table.label: table.keys for table in asked.settings},
        variants={table.label: table.keys for table in asked.variants},
        jobs=jobs,
        runs=[
            ComparedRun(run.setting, run.label, run.seed, f"runs/{run.name}") for run in plan.runs
        ],
        wall_seconds=spent,
    )


def _sharing_cores(config: Config, jobs: int) -> Config:
    """Give each of `jobs` runs its share of the cores, unless the config sets the number.

    The number of clients that train at once does not change the results (docs/guarantees.md).
    """
    if config.max_concurrent_clients or jobs < 2:
        return config
    return Config.load(config, {"max-concurrent-clients": max(1, available_cores() // jobs)})


class _Workers:
    """A pool of worker processes. One that has ended is replaced when it is needed."""

    def __init__(self, count: int, lock: int) -> None:
        self._lock = lock
        self._all: list[WorkerProcess] = []
        self._free: queue.SimpleQueue[WorkerProcess | None] = queue.SimpleQueue()
        self._stopped = False
        self._starting = threading.Lock()
        for _ in range(count):
            self._free.put(None)

    def run(self, config: Path, log: Path) -> None:
        worker = self._free.get()
        try:
            if worker is None or not worker.is_alive():
                worker = self._start()
            worker.run(config, log)
        finally:
            self._free.put(worker)

    def _start(self) -> WorkerProcess:
        with self._starting:
            if self._stopped:
                raise RunError("The comparison was stopped before this run began.")
            self._all.append(WorkerProcess(self._lock))
            return self._all[-1]

    def stop(self) -> None:
        with self._starting:
            self._stopped = True
        for worker in self._all:
            worker.stop()


@contextmanager
def _workers(count: int, lock: int) -> Iterator[_Workers]:
    workers = _Workers(count, lock)
    try:
        yield workers
    finally:
        workers.stop()


def _make_all(
    plan: Plan,
    todo: list[PlannedRun],
    workers: _Workers,
    progress: CompareProgress,
    comparison: Comparison,
) -> None:
    """Make runs, one at a time in each process."""
    before, began = comparison.wall_seconds, time.monotonic()
    waiting = list(reversed(todo))
    going: dict[Future[None], PlannedRun] = {}
    with ThreadPoolExecutor(comparison.jobs, thread_name_prefix="fedsplit-compare") as threads:
        try:
            while waiting or going:
                while waiting and len(going) < comparison.jobs:
                    run = waiting.pop()
                    log = plan.directory / "logs" / f"{run.name}.log"
                    going[threads.submit(workers.run, _config_path(plan, run), log)] = run
                    progress.begins(run)
                ended, _ = wait(going, _SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
                progress.refresh()
                for future in ended:
                    run, error = going.pop(future), future.exception()
                    if error is not None and not isinstance(error, RunError):
                        raise error
                    if error is not None:
                        comparison.failures[f"runs/{run.name}"] = str(error)
                    comparison.wall_seconds = before + time.monotonic() - began
                    comparison.write(plan.directory)
                    progress.ends(run, None if error is None else str(error))
        except BaseException as error:
            workers.stop()  # otherwise leaving the pool of threads would wait for them
            if isinstance(error, KeyboardInterrupt):
                left = counted(len(waiting) + len(going), "run")
                raise InterruptionError(
                    f"Interrupted with {left} left. Finished runs and rounds are kept: give the "
                    "same command again to continue."
                ) from None
            raise


def _config_path(plan: Plan, run: PlannedRun) -> Path:
    return plan.directory / "configs" / f"{run.name}.toml"
