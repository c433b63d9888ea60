"""Runs that are killed with SIGKILL at drawn moments, and resumed, end as unbroken ones."""

from __future__ import annotations

import multiprocessing
import random
import signal
from pathlib import Path

import pytest

from fedsplit import simulate
from tests.conftest import TINY, Run
from tests.dying import MOMENTS, die_in
from tests.test_continuation import RUNS, assert_same_results

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow, pytest.mark.timeout(600)]

ELSEWHERE = {"in aggregation", "while clients are waited for"}
"""Moments that not all of these runs have; benchmarks/sigkill.py has them, under Flower."""
IN_PROCESS = [moment for moment in MOMENTS if moment not in ELSEWHERE]
_random = random.Random(20)
DRAWN = [
    (name, moment, _random.randint(1, MOMENTS[moment][2]))
    for name, moment in zip([*RUNS, *RUNS][:20], (IN_PROCESS * 3)[:20], strict=True)
]


def die_in_run(keys: dict[str, object], moment: str, count: int) -> None:
    """Make a run in this process, which kills itself in the `count`-th call of a function."""
    from fedsplit import experiment

    vars(experiment)["draw_or_warn"] = lambda path, plot: None
    die_in(moment, count)
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
