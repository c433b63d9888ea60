"""A run that is interrupted ends within a batch, keeps its rounds, and says how to continue."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from fedsplit import simulate
from fedsplit.errors import RunError
from fedsplit.interruption import check_interruption, stopping_loops
from tests.conftest import TINY, Run
from tests.preloaded import server
from tests.test_continuation import assert_same_results

ROOT = Path(__file__).parents[1]
ENDLESS = """
from fedsplit.config import Config
from fedsplit.results.recorder import Recorder
end_round = Recorder.end_round

def end_second_round(self):
    row = end_round(self)
    if row["round"] == 2:
        Config.local_epochs = property(lambda self: 10**6)
    return row

Recorder.end_round = end_second_round
from fedsplit.cli import main
main()
"""
"""A command line whose third round never ends."""


def test_loops_are_stopped_for_the_length_of_a_block() -> None:
    from fedsplit.split.local import evaluate_batches

    def run() -> int:
        batches = [(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))] * 3
        from fedsplit.split.steps import score

        model = nn.Linear(2, 2)
        return evaluate_batches(batches, lambda x, y: score(model(x), y)).num_examples

    assert run() == 3
    with stopping_loops():
        with pytest.raises(RunError, match="being stopped"):
            check_interruption()
        with pytest.raises(RunError, match="being stopped"):
            run()
    assert run() == 3


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("strategy", "number"),
    [
        ("full", signal.SIGINT),
        ("sflv1", signal.SIGTERM),
        ("sflv2", signal.SIGINT),
        ("centralized", signal.SIGTERM),
    ],
)
def test_a_signal_ends_a_run_that_then_continues(
    run: Run, tmp_path: Path, strategy: str, number: signal.Signals
) -> None:
    """Break it: do not check for an interruption in `train_batches`; the epochs take minutes."""
    keys = {**TINY, "strategy": strategy, "num-server-rounds": 3, "output-dir": str(tmp_path)}
    (tmp_path / "tmp").mkdir()
    config = tmp_path / "config.toml"
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    arguments = ("run", str(config), "--engine", "inprocess", "--set", "run-name=one")
    process = server().start(
        ["-c", ENDLESS, *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )
    checkpoint = tmp_path / "one" / "checkpoints" / "round-000002.safetensors"
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Interrupted. Everything up to round 2 is kept. Continue with: fedsplit run" in err
    assert list((tmp_path / "tmp").glob("fedsplit-*")) == []
    continued = simulate(resume=tmp_path / "one")
    assert_same_results(run(strategy=strategy, num_server_rounds=3), continued)
