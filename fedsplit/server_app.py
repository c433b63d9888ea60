"""The Flower ServerApp: config -> strategy -> results."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from logging import INFO

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from fedsplit.arrays import to_record, to_state
from fedsplit.channel.endpoint import Channel, SessionHost
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.config import Config
from fedsplit.data.loader import batches
from fedsplit.data.shards import load_pool
from fedsplit.errors import FedSplitError
from fedsplit.exchanged import frozen_digest
from fedsplit.experiment import Experiment, Outcome
from fedsplit.models.split import join_parts
from fedsplit.preparation import Preparation, check_batch_size, prepare
from fedsplit.seeding import generator
from fedsplit.split.local import Batch, PooledTraining
from fedsplit.split.server import SplitServer
from fedsplit.threads import torch_threads
from strategies import STRATEGIES
from strategies.base import FederatedStrategy
from strategies.clients import Clients

app = ServerApp()


@dataclass(frozen=True)
class Engine:
    """What differs between the engines.

    Attributes
    ----------
    name : str
        What summary.json calls it.
    open_channel : Callable[[SessionHost, Config], Channel]
        Makes the channel by which clients reach the split server.
    """

    name: str
    open_channel: Callable[[SessionHost, Config], Channel]


def open_grpc(host: SessionHost, config: Config) -> Channel:
    """Listen where the config says; a stream holds a thread while its client trains."""
    return GrpcChannel(host, address=config.channel.address, max_streams=1024)


FLOWER = Engine("flower", open_grpc)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what ``flwr run`` was asked for."""
    logging.getLogger("flwr").addFilter(_without_traceback)
    config = Config.from_flat(context.run_config, source="The run config")
    run_server(grid, config, FLOWER)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Let Flower log an error that is meant for a person as its message, not as a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, FedSplitError):
        record.msg, record.args, record.exc_info = str(error), (), None
    return True


def run_server(grid: Grid, config: Config, engine: Engine) -> Outcome:
    """Run every round of a config over the nodes of a grid.

    Parameters
    ----------
    grid : Grid
        Flower's, or the in-process one.
    config : Config
        The checked config.
    engine : Engine
        The engine behind the grid.

    Raises
    ------
    FedSplitError
        If the run cannot start or cannot be finished.
    """
    with torch_threads(config.torch_threads):
        run = secrets.token_hex(8)
        prepared = prepare(config, run=run)
        kind = STRATEGIES[config.strategy]
        facts: dict[str, str | int] = {
            "run-id": run,
            "num-labels": len(prepared.class_names),
            "synchronous": int(kind.synchronous),
            "frozen-sha256": frozen_digest(
                prepared.held_by_clients(split=kind.rule is not None), prepared.unused_weights
            ),
        }
        with _served(config, prepared, engine, facts) as server:
            clients = Clients.discover(
                grid, config, facts=facts, meet=server if kind.synchronous else None
            )
            check_batch_size(config.batch_size, [sum(c) for c in clients.class_counts.values()])
            facts["num-clients"] = len(clients.node_ids)
            experiment = Experiment(
                config=config,
                prepared=prepared,
                split=server is not None,
                pooled=kind.pooled,
                class_counts=clients.class_counts,
                engine=engine.name,
                log=lambda line: log(INFO, line),
            )
            with closing(experiment):
                if server is not None:
                    server.progress = experiment.show_progress
                strategy = kind(
                    config=config,
                    clients=clients,
                    facts=facts,
                    note=experiment.recorder.note,
                    server=server,
                    pool=_pool(config, prepared, len(clients.node_ids)),
                )
                return _run_rounds(grid, config, strategy, experiment)


def _run_rounds(
    grid: Grid, config: Config, strategy: FederatedStrategy, experiment: Experiment
) -> Outcome:
    """Let Flower run the rounds, and score the model before the first and after each."""

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        states = _states_of(strategy.to_score(arrays))
        return MetricRecord({**experiment.evaluate(server_round, states)})

    strategy.start(
        grid=grid,
        initial_arrays=to_record(experiment.initial_state()),
        num_rounds=config.num_server_rounds,
        timeout=config.round_timeout,
        evaluate_fn=evaluate,
    )
    return experiment.finish()


def _states_of(records: Sequence[ArrayRecord]) -> list[dict[str, Tensor]]:
    """Return the weights of each; those of one record are one object, and are scored once."""
    states = {id(record): to_state(record) for record in records}
    return [states[id(record)] for record in records]


def _pool(config: Config, prepared: Preparation, num_clients: int) -> PooledTraining | None:
    """Return training on the images of all clients together, if the strategy asks for it."""
    if not STRATEGIES[config.strategy].pooled:
        return None
    images = load_pool(config, num_clients, prepared.spec)

    def batches_of(server_round: int) -> Iterator[Batch]:
        for epoch in range(config.local_epochs):
            order = generator(config.seed, "pooled batches", server_round, epoch)
            for indices in batches(len(images), config.batch_size, generator=order):
                pixels, labels = images.batch(indices)
                yield pixels.to(config.device), labels.to(config.device)

    return PooledTraining(join_parts(*prepared.model), batches_of, config)


@contextmanager
def _served(
    config: Config, prepared: Preparation, engine: Engine, facts: dict[str, str | int]
) -> Iterator[SplitServer | None]:
    """Serve the server part, if the strategy splits, and tell clients where."""
    rule_class = STRATEGIES[config.strategy].rule
    if rule_class is None:
        yield None
        return
    rule = rule_class(prepared.server_part, config.for_server_part())
    server = SplitServer(rule=rule, cut=prepared.cut)
    try:
        channel = engine.open_channel(server, config)
        try:
            facts["channel-address"] = channel.address
            facts["max-frame-bytes"] = server.max_frame_bytes
            yield server
        finally:
            channel.close()
    finally:
        server.close()
