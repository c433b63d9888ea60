from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

from fedsplit import Config
from fedsplit.channel.direct import _hosts
from fedsplit.errors import RunError
from fedsplit.inprocess import IN_PROCESS, InProcessGrid, _task_identity
from fedsplit.server_app import FLOWER, _without_traceback, run_server
from fedsplit.split.client import SplitSession
from tests.conftest import Run, weights

pytestmark = pytest.mark.usefixtures("undrawn")


def _record(error: Exception) -> logging.LogRecord:
    try:
        raise error
    except type(error):
        return logging.LogRecord("flwr", 40, "", 0, "crashed %s", ("x",), sys.exc_info())


def test_flower_logs_our_errors_as_text_and_others_whole() -> None:
    ours, other = _record(RunError("One clear line: 100 %s")), _record(KeyError("x"))
    assert _without_traceback(ours)
    assert _without_traceback(other)
    assert (ours.getMessage(), ours.exc_info) == ("One clear line: 100 %s", None)
    assert other.exc_info is not None


@pytest.mark.slow
def test_the_wire_changes_no_bit_and_no_byte(tiny: dict[str, object], run: Run) -> None:
    config = Config.load(tiny)
    with _task_identity(), InProcessGrid(config) as grid:
        over_grpc = run_server(grid, config, FLOWER)
    direct = run()

    one, other = over_grpc.model.merge().state_dict(), weights(direct)
    assert [name for name in other if not torch.equal(one[name], other[name])] == []
    assert over_grpc.summary["engine"] == "flower"
    for key in direct.summary:
        if key.endswith("_bytes"):
            assert over_grpc.summary[key] == direct.summary[key]


def test_a_failed_run_frees_its_channel_and_threads(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_step(*_: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(SplitSession, "train_step", train_step)
    config, before, hosts = Config.load(tiny), torch.get_num_threads(), dict(_hosts)
    with _task_identity(), InProcessGrid(config) as grid, pytest.raises(RunError):
        run_server(grid, config, IN_PROCESS)
    assert _hosts == hosts
    assert torch.get_num_threads() == before
    (run_dir,) = Path(config.output_dir).iterdir()
    assert not (run_dir / "summary.json").exists()
