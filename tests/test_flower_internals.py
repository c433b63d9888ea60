"""Flower's own engine, with a backend whose clients wait for each other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from fedsplit.simulation import widen
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.metrics import VceMetrics

# One more than the pool's threads without `widen`.
CLIENTS = min(32, (os.cpu_count() or 1) + 4) + 1


class _Backend:
    """Has an actor for every client; a client goes on when all are at work."""

    num_workers = CLIENTS

    def __init__(self, stop: threading.Event, patience_seconds: float) -> None:
        self._stop = stop
        self._patience_seconds = patience_seconds
        self._meeting = threading.Barrier(CLIENTS)
        self.met: list[int] = []

    def build(self, app_fn: Callable[[], object]) -> None:
        app_fn()

    def process_message(
        self, message: SimpleNamespace, context: None
    ) -> tuple[SimpleNamespace, None]:
        try:
            self._meeting.wait(self._patience_seconds)
            self.met.append(message.metadata.dst_node_id)
        except threading.BrokenBarrierError:
            pass  # somebody has no thread to come with
        self._stop.set()
        return message, context

    def terminate(self) -> None:
        self._stop.set()


class _Link:
    """What the engine asks of Flower's link state: one message for each node."""

    def __init__(self) -> None:
        self._sent: set[int] = set()

    def state(self) -> _Link:
        return self

    def get_message_ins(self, node_id: int, limit: int) -> Iterator[SimpleNamespace]:
        if node_id not in self._sent:
            self._sent.add(node_id)
            yield SimpleNamespace(metadata=SimpleNamespace(dst_node_id=node_id, run_id=0))

    def store_message_res(self, message: SimpleNamespace) -> None:
        """Nobody asks for the reply."""


_CONTEXTS = SimpleNamespace(
    retrieve_context=lambda run_id: None, update_context=lambda run_id, context: None
)


def _clients_that_met(patience_seconds: float) -> list[int]:
    stop = threading.Event()
    backend = _Backend(stop, patience_seconds)
    run_api: Any = vce_api.run_api
    run_api(
        app_fn=lambda: None,
        backend_fn=lambda: backend,
        nodes_mapping={node: node for node in range(CLIENTS)},
        state_factory=_Link(),
        node_info_stores=dict.fromkeys(range(CLIENTS), _CONTEXTS),
        f_stop=stop,
        metrics=VceMetrics(),
    )
    return sorted(backend.met)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with Flower's own pool, and leave it behind."""
    monkeypatch.setitem(vars(vce_api), "ThreadPoolExecutor", ThreadPoolExecutor)


def test_all_clients_that_have_an_actor_are_at_work_at_once() -> None:
    """Break it: do not call `widen`. The meeting then breaks, and no client has met the others."""
    widen()
    assert _clients_that_met(patience_seconds=30) == list(range(CLIENTS))


def test_flower_alone_has_a_limit() -> None:
    """If this fails, Flower sizes its pool itself, and `fedsplit.simulation` can go."""
    assert _clients_that_met(patience_seconds=1) == []
