"""The in-process engine: the same two apps as under Flower, without Ray and without a wire."""

from __future__ import annotations

import ctypes
import itertools
import logging
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from fedsplit.absolute_paths import with_absolute_paths
from fedsplit.channel.direct import DirectChannel
from fedsplit.checking import check_shards
from fedsplit.client_app import app as client_app
from fedsplit.config import Config, with_clients
from fedsplit.data.run import reading
from fedsplit.flower_internals import Run, error_reply, task_identity
from fedsplit.interruption import stopping_loops
from fedsplit.models.split import SplitModel
from fedsplit.participants import clients_at_once
from fedsplit.resume import continued, without_place
from fedsplit.server_app import Engine, run_server

IN_PROCESS = Engine("inprocess", lambda host, config: DirectChannel(host))
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What `simulate` returns.

    Attributes
    ----------
    rounds : list[dict[str, Any]]
        One dict per round, as in rounds.jsonl.
    summary : dict[str, Any]
        As in summary.json.
    model : SplitModel
        The final weights, on the CPU.
    run_dir : Path
        The run directory.
    """

    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    model: SplitModel
    run_dir: Path


def simulate(
    config: Config | Mapping[str, object] | str | Path | None = None,
    *,
    resume: Any = None,  # noqa: ANN401 - else mypy would refuse `**{"split.cut-layer": 2}`
    **overrides: object,
) -> Result:
    """Run a config in this process.

    Runs in several threads of a process take turns: torch's number of threads and its global
    generator, which models are drawn from, exist once in a process.

    Parameters
    ----------
    config : Config | Mapping[str, object] | str | Path, optional
        A config, its keys as a mapping, or the path of a TOML file. By default that of the run
        that continues, or that of `Config`.
    resume : str | Path, optional
        The directory of a run that continues after its last checkpoint.
    **overrides : object
        Keys that differ, dotted (``**{"split.cut-layer": 2}``) or underscored
        (``split_cut_layer=2``).

    Returns
    -------
    Result
        Rounds, summary, final model and run directory.

    Raises
    ------
    FedSplitError
        If the config is wrong, or the run cannot be finished, or cannot continue.

    Examples
    --------
    >>> from fedsplit import simulate
    >>> result = simulate({"strategy": "sflv1"}, num_server_rounds=5)  # doctest: +SKIP
    >>> result.summary["final_accuracy"]  # doctest: +SKIP
    >>> simulate(resume=result.run_dir, num_server_rounds=10)  # doctest: +SKIP
    """
    if resume is None:
        asked = Config.load({} if config is None else config, overrides)
        return run_in_process(with_absolute_paths(asked))  # or it could only continue from here
    if config is not None:
        overrides = {**without_place(Config.load(config, overrides))}
    return run_in_process(continued(resume, overrides))


def run_in_process(config: Config) -> Result:
    """Run a checked config in this process, or what is left of the run that it names."""
    try:
        return _run(config)
    finally:
        _give_back_memory()


def _run(config: Config) -> Result:
    checked = with_clients(config)
    with (
        _one_run_at_a_time(),
        reading(checked.data),
        task_identity(),
        InProcessGrid(checked) as grid,
    ):
        check_shards(checked)
        outcome = run_server(grid, checked, IN_PROCESS)
    return Result(outcome.rounds, outcome.summary, outcome.model, outcome.run_directory.path)


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
