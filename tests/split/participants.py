"""Participants in processes of their own, which stop at a chosen place to continue or be killed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Self

import torch
from safetensors.torch import load, save

from tests.split.chains import SHAPE, Points, client_of, held_by
from tests.split.toys import Weights, batches_of
from tests.split.ushaped import TopClient

# Places in a participant's round; also "batch t" (not yet sent) and "output t" (U-shaped: here,
# its gradient not yet sent).
CONNECTING = "connecting"
CONNECTED = "connected"
FINISHING = "finishing"
FINISHED = "finished"

# Each is a process of its own, forked from one that has imported torch but never used it or gRPC.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


class Participant:
    """A process that trains one round on batches of these sizes, and returns its weights.

    Parameters
    ----------
    stop : str | None
        The place at which it waits for `go_on`.
    """

    def __init__(
        self,
        participant: int,
        address: str,
        token: str,
        points: Points,
        *,
        sizes: Sequence[int],
        stop: str | None,
    ) -> None:
        self._stop = stop
        self._pipe, theirs = _processes.Pipe()
        self._process = _processes.Process(
            target=_work, args=(theirs, participant, address, token, points, sizes, stop)
        )
        self._process.start()
        theirs.close()

    def wait_for_stop(self, seconds: float = 200.0) -> None:
        """Wait until it has reached its place; the very first process has to import torch."""
        if self._stop is not None:
            assert self._pipe.poll(seconds), f"it has not come to '{self._stop}'"
            assert self._pipe.recv() == self._stop

    def go_on(self) -> None:
        """Let it continue from its place."""
        if self._stop is not None:
            self._pipe.send(None)

    def held(self, seconds: float) -> Weights:
        """Return its weights at the end of its round."""
        assert self._pipe.poll(seconds), "it has not finished"
        return load(self._pipe.recv_bytes())

    def kill(self) -> int | None:
        """Kill this process with SIGKILL, unless it has ended; return its exit code."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._pipe.close()


def _work(
    pipe: Connection,
    participant: int,
    address: str,
    token: str,
    points: Points,
    sizes: Sequence[int],
    stop: str | None,
) -> None:
    torch.set_num_threads(1)

    def reach(place: str) -> None:
        if place == stop:
            pipe.send(place)
            pipe.recv()

    reach(CONNECTING)
    client = client_of(address, token, points)
    reach(CONNECTED)
    with client.session:
        for step, batch in enumerate(batches_of(participant, *sizes, shape=SHAPE)):
            reach(f"batch {step}")
            if isinstance(client, TopClient):
                client.between_calls = partial(reach, f"output {step}")
            client.step(batch)
        reach(FINISHING)
        client.session.finish()
    reach(FINISHED)
    pipe.send_bytes(save(held_by(client)))
