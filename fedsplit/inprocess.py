"""The in-process engine: the same two apps as under Flower, without Ray and without a wire."""

from __future__ import annotations

import ctypes
import itertools
import logging
import threading
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Self

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from fedsplit.channel.direct import DirectChannel
from fedsplit.checking import check_shards
from fedsplit.client_app import app as client_app
from fedsplit.config import Config, with_clients
from fedsplit.data.run import reading
from fedsplit.experiment import Outcome
from fedsplit.flower_internals import Run, error_reply, task_identity
from fedsplit.interruption import stopping_loops
from fedsplit.observers import NOBODY, Observers
from fedsplit.participants import clients_at_once
from fedsplit.server_app import run_server
from fedsplit.serving import Engine

IN_PROCESS = Engine("inprocess", lambda host, config: DirectChannel(host))
_log = logging.getLogger(__name__)


def run_in_process(
    config: Config,
    *,
    observers: Observers = NOBODY,
    around: AbstractContextManager[object] | None = None,
) -> Outcome:
    """Run a checked config in this process, or what is left of the run that it names.

    Parameters
    ----------
    config : Config
        The config.
    observers : Observers
        What watches the run.
    around : AbstractContextManager[object] | None
        Is entered when it is this run's turn, and left when the run has ended.

    Raises
    ------
    FedSplitError
        If the run cannot start or cannot be finished.
    """
    try:
        return _run(config, observers, around or nullcontext())
    finally:
        _give_back_memory()


def _run(config: Config, observers: Observers, around: AbstractContextManager[object]) -> Outcome:
    checked = with_clients(config)
    with (
        _one_run_at_a_time(),
        around,
        reading(checked.data),
        task_identity(),
        InProcessGrid(checked) as grid,
    ):
        check_shards(checked)
        return run_server(grid, checked, replace(IN_PROCESS, observers=observers))


def _give_back_memory() -> None:
    """Return to the system what the run has freed.

    The C library keeps it for each thread that used it, and every run has new threads. Without this
    a process that makes one run after another, as in a comparison, keeps on growing.
    """
    with suppress(OSError, AttributeError):  # only glibc has it, and only glibc needs it
        ctypes.CDLL(None).malloc_trim(0)


_running = threading.RLock()


@contextmanager
def _one_run_at_a_time() -> Iterator[None]:
    """Wait until no other thread of this process runs a config."""
    if not _running.acquire(blocking=False):
        _log.warning(
            "Another thread of this process is running a config; this run begins when that one "
            "ends. To run several at the same time, use a process for each, as 'fedsplit compare "
            "--jobs 2' does."
        )
        _running.acquire()
    try:
        yield
    finally:
        _running.release()


class InProcessGrid(Grid):
    """A Flower grid whose nodes are threads of this process.

    Parameters
    ----------
    config : Config
        Becomes every node's run config. Node k + 1 holds partition k of `num-clients`;
        `clients_at_once` of them have a thread.
    """

    def __init__(self, config: Config) -> None:
        run_config = config.to_flat()
        self._contexts = {
            partition_id + 1: Context(
                run_id=0,
                node_id=partition_id + 1,
                node_config={"partition-id": partition_id, "num-partitions": config.num_clients},
                state=RecordDict(),
                run_config=run_config,
            )
            for partition_id in range(config.num_clients)
        }
        self._threads = ThreadPoolExecutor(
            clients_at_once(config),
            thread_name_prefix="fedsplit-client",
        )
        self._message_ids = itertools.count(1)
        self._replies: dict[str, Message] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with stopping_loops() if kind is not None else nullcontext():
            self._threads.shutdown(cancel_futures=True)

    def get_node_ids(self) -> Iterable[int]:
        """Return 1 to K."""
        return list(self._contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run the ClientApp on every message, as many at a time as the config allows.

        `timeout` has no effect: a thread cannot be stopped, so slow clients are waited for.
        """
        return list(self._threads.map(self._call, messages))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the ClientApp on every message, and keep the replies."""
        pushed = list(messages)
        for message in pushed:  # as Flower's grids do: a reply names the message by it
            message.metadata.__dict__["_message_id"] = str(next(self._message_ids))
        ids = [message.metadata.message_id for message in pushed]
        self._replies |= dict(zip(ids, self.send_and_receive(pushed), strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that `push_messages` kept."""
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def set_run(self, run: Run) -> None:
        """Not supported: this grid serves the run that it was made for."""
        raise NotImplementedError

    @property
    def run(self) -> Run:
        """Not supported: there is no SuperLink behind this grid."""
        raise NotImplementedError

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def _call(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return client_app(message, context)
        except Exception as error:
            _log.warning("A client failed:\n%s", traceback.format_exc())
            return error_reply(message, f"{type(error).__name__}: {error}")
