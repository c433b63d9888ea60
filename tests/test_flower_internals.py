"""Which public behaviour depends on each private name of Flower."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.serverapp import Grid
from flwr.simulation.ray_transport.ray_actor import BasicActorPool
from flwr.supercore.exit import exit_handler
from flwr.supercore.superexec import dependency_installer
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from fedsplit.flower_internals import (
    ClientAppCallable,
    NodeInfo,
    Run,
    call_at_exit,
    error_reply,
    is_deployed,
    mean_of_metrics,
    process_has_died,
    record_bytes,
    replace_dead_workers,
    report_before_cleanup,
    task_identity,
    widen_simulation,
)
from fedsplit.inprocess import InProcessGrid
from strategies.aggregation import SampledGrid

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
    """Break it: do not call `widen_simulation`; no client then meets the others."""
    widen_simulation()
    assert _clients_that_met(patience_seconds=30) == list(range(CLIENTS))


def test_flower_alone_has_a_limit() -> None:
    """If this fails, Flower sizes its pool itself, and `widen_simulation` can go."""
    assert _clients_that_met(patience_seconds=1) == []


def test_a_pool_that_is_at_work_already_is_widened() -> None:
    """Flower's engine may make its pool before the ServerApp begins.

    Break it: leave out the loop over the pools at work.
    """
    threading.Timer(0.5, widen_simulation).start()
    assert _clients_that_met(patience_seconds=30) == list(range(CLIENTS))


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """Return what a process of Flower's does at its end, in order."""
    environment = tmp_path / "environment"
    done: list[str] = []
    registered: list[object] = []

    def clean(directory: Path) -> None:
        assert directory == environment
        done.append("clean")

    monkeypatch.setattr(exit_handler, "registered_exit_handlers", registered)
    monkeypatch.setattr("fedsplit.flower_internals.registered_exit_handlers", registered)
    monkeypatch.setattr(dependency_installer, "cleanup_app_runtime_environment", clean)
    exit_handler.add_exit_handler(lambda: done.append("disconnect"))
    exit_handler.add_exit_handler(lambda: done.append("report"))
    dependency_installer._register_runtime_env_cleanup(environment)

    def end() -> list[str]:
        exit_handler.trigger_exit_handlers(run_before_force_exit=False)
        return done

    return end


def test_a_run_reports_its_end_before_its_environment_is_deleted(
    ended: Callable[[], list[str]],
) -> None:
    """Break it: sort the other way."""
    report_before_cleanup()
    assert ended() == ["report", "disconnect", "clean"]


def test_flower_alone_deletes_the_environment_first(ended: Callable[[], list[str]]) -> None:
    """If this fails, Flower reports first itself, and `report_before_cleanup` can go."""
    assert ended() == ["clean", "report", "disconnect"]


def test_importing_fedsplit_changes_nothing_in_flower() -> None:
    """Break it: widen the pool when the ClientApp is imported."""
    code = (
        "from flwr.server.superlink.fleet.vce import vce_api\n"
        "before = dict(vars(vce_api))\n"
        "import fedsplit.client_app, fedsplit.server_app, fedsplit.inprocess\n"
        "assert dict(vars(vce_api)) == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_message_needs_a_task() -> None:
    """`task_identity`: the in-process engine creates messages as Flower's ServerApp does.

    Break it: leave `task_identity` out of `run_in_process`.
    """
    with pytest.raises(RuntimeError, match="not set"):
        Message(RecordDict(), 1, "train")
    with task_identity():
        assert Message(RecordDict(), 7, "train").metadata.dst_node_id == 7
    with pytest.raises(RuntimeError, match="not set"):
        Message(RecordDict(), 1, "train")


def test_a_failed_client_replies_with_its_reason() -> None:
    """`error_reply`: Flower's strategies see it as a failure."""
    with task_identity():
        reply = error_reply(Message(RecordDict(), 7, "train"), "the disk is broken")
    assert reply.has_error()
    assert reply.error.reason == "the disk is broken"
    assert reply.metadata.src_node_id == 7


def test_bytes_of_weights_are_those_of_the_serialized_record() -> None:
    """`record_bytes`: the ledger's sync bytes; numpy's header of each array counts."""
    arrays = ArrayRecord({"a": torch.zeros(100), "b": torch.zeros(2, 3, dtype=torch.int64)})
    data = sum(len(array.data) for array in arrays.values())
    assert data == 100 * 4 + 6 * 8 + 2 * 128
    assert 0 < record_bytes(arrays) - data < 1000
    assert record_bytes(arrays) == record_bytes(ArrayRecord(dict(arrays)))


def test_metrics_are_averaged_by_a_weight() -> None:
    """`mean_of_metrics`: the train loss where no aggregator runs."""
    contents = [
        RecordDict({"metrics": MetricRecord({"num-examples": n, "loss": loss})})
        for n, loss in ((1, 8.0), (3, 4.0))
    ]
    assert mean_of_metrics(contents, "num-examples")["loss"] == 5.0


def test_a_grid_of_our_own_has_the_methods_that_flower_asks_for() -> None:
    """`Run`, `NodeInfo`: the types in the signatures of Flower's abstract Grid."""
    assert inspect.signature(Grid.set_run).parameters["run"].annotation is Run
    assert NodeInfo(node_id=3).node_id == 3
    assert issubclass(SampledGrid, Grid)
    assert not inspect.isabstract(SampledGrid)
    assert not inspect.isabstract(InProcessGrid)


def test_a_mod_takes_the_message_the_context_and_the_next_call() -> None:
    """`ClientAppCallable`: the type of what a mod of a ClientApp calls."""
    assert get_args(ClientAppCallable) == ([Message, Context], Message)


class _Pool(BasicActorPool):
    """Flower's pool of Ray actors, without Ray: one actor is at work on the future "f"."""

    def __init__(self) -> None:
        self.pool: list[Any] = []
        actors: dict[Any, Any] = {"f": "actor"}
        self._future_to_actor = actors
        self.create_actor_fn = lambda: "new actor"


@pytest.fixture
def _own_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin and end with Flower's own class, although another test may have run a ServerApp."""
    name = "add_actor_back_to_pool"
    monkeypatch.setattr(BasicActorPool, name, inspect.unwrap(vars(BasicActorPool)[name]))
    monkeypatch.setattr(BasicActorPool, "fedsplit_replaces_dead_actors", True, raising=False)
    monkeypatch.delattr(BasicActorPool, "fedsplit_replaces_dead_actors")


def _after(error: Exception) -> list[Any]:
    pool = _Pool()
    try:
        raise error
    except Exception:
        pool.add_actor_back_to_pool("f")
    assert pool._future_to_actor == {}
    return pool.pool


@pytest.mark.usefixtures("_own_pool")
def test_a_dead_worker_is_replaced_and_one_that_lives_is_kept() -> None:
    """Under Flower itself: tests/e2e/test_resume.py. Break it: replace after any error."""
    assert _after(RayActorError()) == ["actor"], "Flower replaces it itself: ours can go"
    for _ in range(2):
        replace_dead_workers()
        deaths: list[Any] = [RayActorError, partial(OutOfMemoryError, "killed"), WorkerCrashedError]
        for death in deaths:
            assert _after(death()) == ["new actor"]
        assert _after(ValueError("the app has failed")) == ["actor"]
        raised: Any = RayTaskError
        assert _after(raised("run", "its traceback", ValueError("the app has failed"))) == ["actor"]


def test_a_process_that_has_died_is_told_from_an_app_that_has_failed() -> None:
    assert process_has_died(Error(ErrorCode.UNKNOWN, "ActorDiedError"))
    assert process_has_died(Error(ErrorCode.CLIENT_APP_CRASHED, "it crashed"))
    assert not process_has_died(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "no data"))
    assert not process_has_died(Error(ErrorCode.NODE_UNAVAILABLE, "gone"))


def test_what_is_to_happen_at_exit_happens_at_exit(ended: Callable[[], list[str]]) -> None:
    happened: list[str] = []
    call_at_exit(lambda: happened.append("closed"))
    ended()
    assert happened == ["closed"]


def test_a_simulation_is_told_by_its_engine() -> None:
    """This process has imported it, above; a ServerApp of a deployment has not."""
    assert not is_deployed()
    code = "from fedsplit.server_app import FLOWER; print(FLOWER.has_sites())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
