"""Runs that are killed with SIGKILL at drawn moments, and resumed, end as unbroken ones."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest

from fedsplit import simulate
from tests.conftest import TINY, Run
from tests.dying import MOMENTS
from tests.preloaded import server
from tests.test_continuation import RUNS, assert_same_results

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"in aggregation", "while clients are waited for"}
"""Moments that not all of these runs have; benchmarks/sigkill.py has them, under Flower."""
IN_PROCESS = [moment for moment in MOMENTS if moment not in ELSEWHERE]
_random = random.Random(20)
DRAWN = [
    (name, moment, _random.randint(1, MOMENTS[moment][2]))
    for name, moment in zip([*RUNS, *RUNS][:20], (IN_PROCESS * 3)[:20], strict=True)
]


RUN = """
import json, sys
from fedsplit import experiment, simulate
from tests.dying import die_in

experiment.draw_or_warn = lambda path, plot: None
die_in(sys.argv[1], int(sys.argv[2]))
simulate(json.loads(sys.argv[3]))
"""
"""A run that kills its process in a call of a function."""


@pytest.mark.parametrize(("name", "moment", "count"), DRAWN)
def test_a_killed_run_resumes_to_the_weights_rows_and_bytes_of_an_unbroken_one(
    run: Run, tmp_path: Path, name: str, moment: str, count: int
) -> None:
    """Break it: leave the state of the recorder out of a checkpoint."""
    keys = {"num-server-rounds": 3, **RUNS[name]}
    here = {**TINY, **keys, "output-dir": str(tmp_path), "run-name": "one"}
    arguments = [moment, str(count), json.dumps(here)]
    done = server().run(["-c", RUN, *arguments], cwd=ROOT, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "one" / "summary.json").exists()
    assert_same_results(run(**keys), simulate(resume=tmp_path / "one"))
    assert list((tmp_path / "one").rglob(".partial-*")) == []
