from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from fedsplit import Config, Result, simulate
from fedsplit.results.checkpoints import Checkpoints
from tests.conftest import TINY, distance, weights
from tests.preloaded import server

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


def test_a_run_waits_for_that_of_another_thread_and_ends_as_it_does_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: let runs go on at the same time; torch's number of threads is one for all."""

    def config(seed: int, directory: str) -> Config:
        changes = {"num-server-rounds": 1, "output-dir": str(tmp_path / directory), "seed": seed}
        return Config.load(TINY, changes)

    second: list[Future[Result]] = []

    def begin_another(*_: object) -> None:
        monkeypatch.undo()
        second.append(threads.submit(simulate, config(8, "second")))
        deadline = time.monotonic() + 60
        while "this run begins when that one ends" not in caplog.text:
            assert time.monotonic() < deadline, "the other run does not wait"
            time.sleep(0.01)
        assert not (tmp_path / "second").exists()

    with ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr(Checkpoints, "write", begin_another)
        together = [simulate(config(7, "first"))]
        together.append(second[0].result())
    for seed, result in zip((7, 8), together, strict=True):
        alone = simulate(config(seed, "alone"))
        assert distance(weights(alone), weights(result)) == 0.0
        for key in ("final_accuracy", "cut_uplink_bytes", "sync_uplink_bytes"):
            assert alone.summary[key] == result.summary[key]


FREED = """
import ctypes, re, sys
from pathlib import Path
from fedsplit import simulate

def resident():
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

keys = {"num-clients": 2, "num-server-rounds": 1, "strategy": "full", "fraction-evaluate": 0.0}
keys |= {"model.name": "timm:vit_small_patch16_224", "model.pretrained": False}
keys |= {"model.image-size": 32, "max-concurrent-clients": 1}
keys |= {"data.max-train-samples": 20, "data.max-test-samples": 10, "batch-size": 8}
result = simulate(keys, output_dir=sys.argv[1])  # it has the model
before = resident()
ctypes.CDLL(None).malloc_trim(0)
print(before - resident())
"""


def test_a_process_does_not_keep_what_a_run_has_freed(tmp_path: Path) -> None:
    """Break it: leave it to the C library, which keeps it for the threads of the run."""
    done = server().run(["-c", FREED, str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 50e6
