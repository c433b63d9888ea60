"""Everything that fedsplit uses of Flower beyond its public names, in one place.

Public are ``flwr.app``, ``flwr.clientapp``, ``flwr.serverapp`` and ``flwr.common``. What is here
may change with any release of Flower. Each name has a test that shows which public behaviour
depends on it (tests/test_flower_internals.py). Importing this module changes nothing in Flower.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.thread import _worker
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any
from weakref import ref

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from flwr.supercore.exit.exit_handler import add_exit_handler, registered_exit_handlers
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.logger import update_console_handler
from flwr.supercore.run import Run
from flwr.supercore.superexec.dependency_installer import cleanup_app_runtime_environment
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "ClientAppCallable",
    "NodeInfo",
    "Run",
    "call_at_exit",
    "error_reply",
    "is_deployed",
    "log_without_colours",
    "mean_of_metrics",
    "process_has_died",
    "record_bytes",
    "replace_dead_workers",
    "report_before_cleanup",
    "task_identity",
    "widen_simulation",
]

_ENGINE = "flwr.server.superlink.fleet.vce.vce_api"
_REPLACING = "fedsplit_replaces_dead_actors"
_MANY_THREADS = 2**15
"""More than there can be clients: a pool starts a thread only for a worker that it is given."""


@contextmanager
def task_identity() -> Iterator[None]:
    """Give this process a Flower task: without one, Flower refuses to create a message."""
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 0, SUPERLINK_NODE_ID
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def error_reply(message: Message, reason: str) -> Message:
    """Return the reply of a client that has failed."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def process_has_died(error: Error) -> bool:
    """Return whether a reply's error says that the ClientApp's process has ended, not the app.

    In a simulation Flower replies with the code ``UNKNOWN`` then, and a SuperNode with
    ``CLIENT_APP_CRASHED``.
    """
    return error.code in (ErrorCode.UNKNOWN, ErrorCode.CLIENT_APP_CRASHED)


def replace_dead_workers() -> None:
    """Let Flower's simulation put a new Ray actor in the place of one that has died.

    Flower 1.41 puts a dead actor back into its pool, where it fails every message at once: one
    dead actor of two takes most clients out of every later round. One that Ray has killed because
    memory ran out stays dead too, and its clients would fail in every round that follows.

    The ServerApp calls this when it begins; it runs in the engine's process. In a process without
    the engine, nothing happens.
    """
    if _ENGINE not in sys.modules:
        return
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool  # only the engine needs Ray
    from ray.exceptions import RayError, RayTaskError

    if hasattr(BasicActorPool, _REPLACING):
        return
    put_back = BasicActorPool.add_actor_back_to_pool

    @wraps(put_back)
    def put_back_or_replace(pool: Any, future: object) -> None:  # noqa: ANN401 - Flower's
        error = sys.exc_info()[1]
        # Ray has a class for each way to die, such as OutOfMemoryError; an app's own error is a
        # RayTaskError.
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            del pool._future_to_actor[future]
            pool.pool.append(pool.create_actor_fn())
        else:
            put_back(pool, future)

    vars_of_pool: Any = BasicActorPool
    vars_of_pool.add_actor_back_to_pool = put_back_or_replace
    setattr(BasicActorPool, _REPLACING, True)


def record_bytes(record: ArrayRecord | ConfigRecord) -> int:
    """Return the exact serialized length of a record, such as weights, as Flower sends it.

    The envelope (ids, addresses, time stamps) is left out: it depends on the engine.
    """
    return sum(len(part.deflate()) for part in get_all_nested_objects(record).values())


def mean_of_metrics(contents: list[RecordDict], weighted_by: str) -> MetricRecord:
    """Return the mean of every metric, weighted by one of them, as Flower's strategies do."""
    return aggregate_metricrecords(contents, weighted_by)


def report_before_cleanup() -> None:
    """Let this process report the end of its run before it deletes the run's environment.

    Flower 1.41 calls what is registered for the end of a process in reverse order, and ends the
    process after 5 seconds. Deleting an environment that holds torch can take longer. The end is
    then never reported, and a finished run counts as failed a minute later ("No heartbeat
    received from the task").

    The ServerApp calls this when it begins. Without an environment of the run's own, nothing
    changes.
    """
    deletes = cleanup_app_runtime_environment.__module__
    registered_exit_handlers.sort(key=lambda found: found.exit_handler.__module__ != deletes)


def log_without_colours() -> None:
    """Let this process log plain text: what a ServerApp prints goes to a file and a pipe."""
    update_console_handler(colored=False)


def call_at_exit(function: Callable[[], object]) -> None:
    """Call a function when this process is asked to end, by a signal or by ``flwr stop``."""
    add_exit_handler(partial(_call, function))


def _call(function: Callable[[], object]) -> None:
    function()


def is_deployed() -> bool:
    """Whether SuperNodes of others run the clients, and not a simulation in this process."""
    return _ENGINE not in sys.modules


def widen_simulation() -> None:
    """Let Flower's simulation run as many clients at the same time as it has Ray actors.

    Flower 1.41 starts one worker for each actor, but in a thread pool of Python's default size:
    the machine's cores and 4 more. A worker is busy until its client replies, so the actors above
    that number would never get a message, whatever the federation's settings are. Clients that
    wait for each other at every step would then wait forever.

    The ServerApp calls this when such a run begins; it runs in the engine's process. The engine's
    pool may not exist yet, or may be at work already: both are widened. In a process without the
    engine, nothing happens.
    """
    engine = sys.modules.get(_ENGINE)
    if not hasattr(engine, "ThreadPoolExecutor"):
        return
    vars(engine)["ThreadPoolExecutor"] = partial(ThreadPoolExecutor, _MANY_THREADS)
    for pool in _pools_at_work(engine):
        _widen(pool)


def _pools_at_work(engine: Any) -> list[ThreadPoolExecutor]:  # noqa: ANN401 - a module
    """Return the thread pools that run the engine's workers now."""
    pools: dict[int, ThreadPoolExecutor] = {}
    for thread in threading.enumerate():
        target, arguments = vars(thread).get("_target"), vars(thread).get("_args") or ()
        if target is _worker and arguments and isinstance(arguments[0], ref):
            frame = sys._current_frames().get(thread.ident or 0)
            while frame is not None and frame.f_code is not engine.worker.__code__:
                frame = frame.f_back
            pool = arguments[0]()
            if frame is not None and pool is not None:
                pools[id(pool)] = pool
    return list(pools.values())


def _widen(pool: ThreadPoolExecutor) -> None:
    """Start a thread for each worker that waits for one."""
    pool._max_workers = _MANY_THREADS
    pool._threads = set(pool._threads)  # another thread iterates over the old one, and joins them
    for _ in range(pool._work_queue.qsize()):
        pool._adjust_thread_count()
