"""Runs that are killed with SIGKILL at drawn moments, and resumed, end as unbroken ones."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest

from fedsplit import simulate
from tests.conftest import TINY, Run
from tests.test_continuation import RUNS, assert_same_results

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow, pytest.mark.timeout(600)]

MOMENTS = {
    "in a step": ("fedsplit.split.training", "Training.update", 55),
    "in evaluation by clients": ("fedsplit.client_app", "evaluate_batches", 10),
    "in evaluation on the test set": ("fedsplit.scoring", "evaluate_batches", 3),
    "in the bookkeeping of a round": ("strategies.base", "check_enough", 3),
    "while a row is written": ("fedsplit.results.run_directory", "RunDirectory.append_round", 3),
    "before a file is on the disk": ("fedsplit.results.files", "_sync", 8),
    "while a checkpoint is written": ("fedsplit.snapshot", "_parts", 3),
    "while the model is saved": ("fedsplit.experiment", "save_model", 1),
    "while the summary is written": (
        *("fedsplit.results.run_directory", "RunDirectory.write_summary"),
        1,
    ),
}
"""Module, function, and how often at most it is called before the process dies in it."""
_random = random.Random(20)
DRAWN = [
    (name, moment, _random.randint(1, MOMENTS[moment][2]))
    for name, moment in zip([*RUNS, *RUNS][:20], [*MOMENTS, *MOMENTS, *MOMENTS][:20], strict=True)
]


def die_in_run(keys: dict[str, object], moment: str, count: int) -> None:
    """Make a run in this process, which kills itself in the `count`-th call of a function."""
    from fedsplit import experiment

    experiment.draw_or_warn = lambda path, plot: None
    module_name, path, _ = MOMENTS[moment]
    owner: object = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real, calls = getattr(owner, name), 0

    def dying(*given: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)

    setattr(owner, name, dying)
    simulate(keys)


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Processes that have imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fedsplit.inprocess", "transformers.modeling_utils", __name__])
    return context


@pytest.mark.parametrize(("name", "moment", "count"), DRAWN)
def test_a_killed_run_resumes_to_the_weights_rows_and_bytes_of_an_unbroken_one(
    run: Run,
    tmp_path: Path,
    processes: multiprocessing.context.ForkServerContext,
    name: str,
    moment: str,
    count: int,
) -> None:
    """Break it: rename a checkpoint before it is written, or trust rows that it does not have."""
    keys = {"num-server-rounds": 3, **RUNS[name]}
    here = {**TINY, **keys, "output-dir": str(tmp_path), "run-name": "one"}
    process = processes.Process(target=die_in_run, args=(here, moment, count))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "one" / "summary.json").exists()
    assert_same_results(run(**keys), simulate(resume=tmp_path / "one"))
    assert list((tmp_path / "one").rglob(".partial-*")) == []
