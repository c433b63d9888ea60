from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedsplit import Config
from fedsplit.report.gather import read_run
from fedsplit.report.run_header import run_header
from tests.report.examples import write_run

_BY_A_CALLBACK = "It ended early, because a callback ended it (StopRun); log.txt says why."
_BY_PATIENCE = "It ended early, because its score had not improved for as long as patience says."


@pytest.mark.parametrize(
    ("keys", "last", "said"),
    [
        ({}, 0.1, _BY_A_CALLBACK),
        ({"patience": 2}, 0.1, _BY_A_CALLBACK),
        ({"patience": 1}, 0.1, _BY_PATIENCE),
        ({"patience": 1}, 0.9, _BY_A_CALLBACK),
    ],
)
def test_it_says_what_has_ended_a_run_early(
    tmp_path: Path, keys: dict[str, Any], last: float, said: str
) -> None:
    """Break it: say that it was patience, whatever it was."""
    asked = {"output-dir": str(tmp_path), "run-name": "one", "num-server-rounds": 5}
    run = write_run(Config.load({**asked, **keys}), rounds=2)
    record = read_run(run.path)
    first, second = record.rounds
    rows = [{**first, "test_accuracy": 0.2}, {**second, "test_accuracy": last}]
    stopped = replace(record, rounds=rows, summary={**record.summary, "stopped_early": True})
    assert run_header(stopped).lead.endswith(said)
