"""The time of one exchange: smashed data to the server, a cut gradient of the same size back.

Nothing is computed. The other end of fedsplit's channel is a process that echoes. The other end of
Flower's messages is a ClientApp that echoes, in a simulation that `flwr run` starts.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.processes import Remote
from fedsplit.channel.connect import connect
from fedsplit.channel.endpoint import OnRevoke, nothing
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.channel.ledger import Traffic
from fedsplit.split.wire import LABELS, LOSS, NUM_CORRECT

MAX_FRAME_BYTES = 64 * 2**20
_APP = Path(__file__).with_name("messages_app")
_WARM = 10


class EchoSession:
    """Answers smashed data with itself as the cut gradient."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    def handle(self, frame: Frame) -> Frame:
        """Answer at once."""
        scores = {LOSS: torch.zeros(()), NUM_CORRECT: torch.zeros((), dtype=torch.int64)}
        tensors = {name: t for name, t in frame.tensors.items() if name != LABELS}
        return Frame(Kind.CUT_GRADIENT, frame.step, {**tensors, **scores})

    def close(self, reason: str) -> None:
        """Do nothing: nothing is kept."""


class EchoServer:
    """A gRPC channel that takes any token and echoes."""

    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._channel = GrpcChannel(self, address="127.0.0.1:0", max_streams=16)

    def knows(self, token: str) -> bool:
        """Accept every token."""
        return True

    def open(self, token: str, on_revoke: OnRevoke = nothing) -> EchoSession:
        """Accept a stream."""
        return EchoSession()

    def address(self) -> str:
        """Return where it listens."""
        return self._channel.address

    def close(self) -> None:
        """End the channel."""
        self._channel.close()


def over_grpc(smashed: Tensor, exchanges: int) -> list[float]:
    """Return the seconds of each exchange over fedsplit's channel."""
    remote = Remote(EchoServer)
    labels = torch.zeros(len(smashed), dtype=torch.int64)
    address: str = remote.call("address")
    seconds = []
    with connect(address, "any", step_timeout=60, max_frame_bytes=MAX_FRAME_BYTES) as stream:
        for step in range(_WARM + exchanges):
            started = time.perf_counter()
            stream.exchange(Frame(Kind.SMASHED_DATA, step, {"cut.hidden": smashed, LABELS: labels}))
            seconds.append(time.perf_counter() - started)
    remote.close()
    return seconds[_WARM:]


def by_flower(smashed: Tensor, exchanges: int) -> list[float]:
    """Return the seconds of each exchange by ``grid.send_and_receive``."""
    from tests.e2e.flower import Flower  # it is kept with the tests, which need it most

    run_config = {"floats": smashed.numel(), "exchanges": exchanges}
    with Flower() as flower:
        run = flower.run(_APP, run_config=run_config)
    found = re.search(r"seconds: (\[.*?\])", run.output, re.DOTALL)
    if not run.completed or found is None:
        raise RuntimeError(f"The Flower run failed: {run.details}\n{run.output}")
    return [float(value) for value in json.loads(found[1])]
