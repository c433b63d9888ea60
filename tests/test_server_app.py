from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from fedsplit import Config
from fedsplit.channel.direct import _hosts
from fedsplit.errors import FedSplitError, RunError
from fedsplit.flower_internals import task_identity
from fedsplit.inprocess import IN_PROCESS, InProcessGrid
from fedsplit.server_app import FLOWER, _without_traceback, app, run_server
from fedsplit.split.client import SplitSession
from fedsplit.split.server import SplitServer
from strategies.grids import ForwardingGrid
from tests.channel.certificates import Certificates
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"num-clients": 3},
            ("num-clients = 3", "2 SuperNodes are connected after 0.1 s", "num-supernodes=3"),
        ),
        ({"split.cut-layer": 99}, ("split.cut-layer = 99", "Set it to 1 to 5")),
        ({"channel.address": "taken"}, ("channel.address = ", "is in use", "set port 0")),
    ],
    ids=["nodes", "cut", "port"],
)
def test_a_run_that_cannot_start_says_why_in_one_paragraph(
    tiny: dict[str, object],
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, object],
    said: tuple[str, ...],
) -> None:
    """With the app as Flower calls it; in Flower's own log: tests/e2e/test_failures.py.

    Break it: leave out the filter in `main`, and the log has a traceback.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken, task_identity():
        if "channel.address" in changes:
            changes = {"channel.address": f"127.0.0.1:{taken.getsockname()[1]}"}
        nodes = Config.load(tiny, {"num-clients": 2, "connect-timeout": 0.1})
        config = Config.load(nodes, changes)
        context = Context(0, 0, {}, RecordDict(), config.to_flat())
        with InProcessGrid(nodes) as grid, pytest.raises(FedSplitError) as caught:
            app(grid, context)
    log(logging.ERROR, "ServerApp raised an exception", exc_info=caught.value)  # as Flower does

    paragraph = str(caught.value)
    assert [text for text in said if text not in paragraph] == []
    assert "\n" not in paragraph
    assert caplog.messages[-1] == paragraph
    assert "Traceback" not in caplog.text
    assert not Path(str(tiny["output-dir"])).exists()


@pytest.mark.slow
def test_the_wire_changes_no_bit_and_no_byte(
    tiny: dict[str, object], run: Run, tmp_path: Path
) -> None:
    """And what is wrong with its private key is in the run's log, too."""
    made = Certificates(tmp_path / "made").directory
    (made / "server.key").chmod(0o644)
    tls = {
        "channel.certificate": str(made / "server.pem"),
        "channel.private-key": str(made / "server.key"),
        "channel.root-certificates": str(made / "ca.pem"),
    }
    config = Config.load(tiny, tls)
    with task_identity(), InProcessGrid(config) as grid:
        over_grpc = run_server(grid, config, FLOWER)
    direct = run()

    one, other = over_grpc.model.merge().state_dict(), weights(direct)
    assert [name for name in other if not torch.equal(one[name], other[name])] == []
    assert over_grpc.summary["engine"] == "flower"
    for key in direct.summary:
        if key.endswith("_bytes"):
            assert over_grpc.summary[key] == direct.summary[key]
    (run_dir,) = Path(config.output_dir).iterdir()
    assert "can be read by every user of this machine (mode 644)" in (
        (run_dir / "log.txt").read_text()
    )


def test_a_failed_run_frees_its_channel_and_threads(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_step(*_: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(SplitSession, "train_step", train_step)
    config, before, hosts = Config.load(tiny), torch.get_num_threads(), dict(_hosts)
    with task_identity(), InProcessGrid(config) as grid, pytest.raises(RunError):
        run_server(grid, config, IN_PROCESS)
    assert _hosts == hosts
    assert torch.get_num_threads() == before
    (run_dir,) = Path(config.output_dir).iterdir()
    assert not (run_dir / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sflv1", "sflv2"])
def test_clients_are_found_through_the_grid_that_knows_who_was_asked(
    tiny: dict[str, object], strategy: str
) -> None:
    """For a node that is gone the SuperLink replies: without it, "node 1" is named.

    Break it: find the clients through Flower's grid.
    """
    asked: list[tuple[bool, set[str]]] = []
    knows = False

    class Noting(ForwardingGrid):
        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> Iterable[Message]:
            messages = list(messages)
            asked.append((knows, {message.metadata.message_type for message in messages}))
            return super().send_and_receive(messages, timeout=timeout)

    def asking(grid: Grid, server: SplitServer | None) -> Grid:
        nonlocal knows
        knows = server is not None
        return Noting(grid)

    config = Config.load(tiny, {"strategy": strategy, "num-server-rounds": 1})
    with task_identity(), InProcessGrid(config) as grid:
        run_server(grid, config, replace(IN_PROCESS, asking=asking))
    assert asked[0] == (strategy == "sflv2", {"query.describe"})
    assert asked[1] == (True, {"train"})
