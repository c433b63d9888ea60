from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedsplit import Result, simulate
from tests.conftest import TINY, distance, weights

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


def test_runs_in_several_threads_end_as_each_does_alone(tmp_path: Path) -> None:
    """Break it: let them run at the same time; a run sets torch's number of threads for all."""

    def simulated(seed: int, directory: str) -> Result:
        keys = {**TINY, "num-server-rounds": 1, "output-dir": str(tmp_path / directory)}
        return simulate(keys, seed=seed)

    alone = [simulated(seed, "alone") for seed in (7, 8)]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(simulated, (7, 8), ("together 7", "together 8")))
    for one, other in zip(alone, together, strict=True):
        assert distance(weights(one), weights(other)) == 0.0
        for key in ("final_accuracy", "cut_uplink_bytes", "sync_uplink_bytes"):
            assert one.summary[key] == other.summary[key]
