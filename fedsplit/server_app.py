"""The Flower ServerApp: config -> strategy -> results."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from logging import INFO, WARNING

from flwr.app import Context
from flwr.common import log
from flwr.serverapp import Grid, ServerApp

from fedsplit.algorithms import strategy_class
from fedsplit.batch_check import Trained
from fedsplit.channel.endpoint import Channel, SessionHost
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.checking import check_batches
from fedsplit.config import Config
from fedsplit.data.augment import augmentation
from fedsplit.data.loader import device_batches
from fedsplit.data.run import reading
from fedsplit.data.shards import load_pool
from fedsplit.errors import FedSplitError
from fedsplit.experiment import Experiment, Outcome
from fedsplit.flower_internals import (
    call_at_exit,
    replace_dead_workers,
    report_before_cleanup,
    widen_simulation,
)
from fedsplit.inputs import Inputs
from fedsplit.messages import Instructions
from fedsplit.models.split import join_parts
from fedsplit.models.trainable import layer_rates
from fedsplit.participants import check_clients, max_streams
from fedsplit.preparation import Preparation, prepare
from fedsplit.references import reference_to
from fedsplit.results.run_directory import RunDirectory
from fedsplit.resume import last_state
from fedsplit.rounds import Rounds
from fedsplit.seeding import generator
from fedsplit.split.local import Batch, PooledTraining
from fedsplit.split.loss import balanced_weights
from fedsplit.split.rules import RuleSettings
from fedsplit.split.server import SplitServer
from fedsplit.split.training import Training
from fedsplit.threads import torch_threads
from strategies.asking import AskingGrid
from strategies.clients import Clients
from strategies.context import RunContext

app = ServerApp()


@dataclass(frozen=True)
class Engine:
    """What differs between the engines.

    Attributes
    ----------
    name : str
        Its name in summary.json.
    open_channel : Callable[[SessionHost, Config], Channel]
        Opens the channel through which clients reach the split server.
    make_room : Callable[[], object]
        Called before the rendezvous of clients that must all run at the same time.
    at_exit : Callable[[Callable[[], object]], object]
        Takes a function to call if the process is asked to end, where that raises no exception.
    asking : Callable[[Grid, SplitServer | None], Grid]
        Returns the grid through which rounds ask clients.
    """

    name: str
    open_channel: Callable[[SessionHost, Config], Channel]
    make_room: Callable[[], object] = lambda: None
    at_exit: Callable[[Callable[[], object]], object] = lambda function: None
    asking: Callable[[Grid, SplitServer | None], Grid] = lambda grid, server: grid


def open_grpc(host: SessionHost, config: Config) -> Channel:
    """Listen where the config says; each open stream holds a thread."""
    return GrpcChannel(
        host,
        address=config.channel.address,
        max_streams=max_streams(config),
        reconnect_seconds=config.channel.reconnect_timeout,
    )


FLOWER = Engine("flower", open_grpc, widen_simulation, call_at_exit, AskingGrid)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the app for ``flwr run``."""
    logging.getLogger("flwr").addFilter(_without_traceback)
    report_before_cleanup()
    replace_dead_workers()
    config = Config.from_flat(context.run_config, source="The run config")
    run_server(grid, config, FLOWER)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Make Flower log a `FedSplitError` as its message, without a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, FedSplitError):
        record.msg, record.args, record.exc_info = str(error), (), None
    return True


def run_server(grid: Grid, config: Config, engine: Engine) -> Outcome:
    """Run every round of a config over the nodes of a grid, or those that are left of a run.

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
    saved = last_state(config)
    with torch_threads(config.torch_threads), reading(config.data):
        run = secrets.token_hex(8)
        prepared = prepare(config, run=run)
        kind = strategy_class(config.strategy)
        with _served(config, prepared, engine) as (server, address):
            told = _instructions(config, prepared, run, address)
            if kind.synchronous:
                engine.make_room()
            clients = Clients.discover(
                grid, config, instructions=told, rendezvous=server if kind.synchronous else None
            )
            check_clients(config, len(clients.node_ids), clients.num_validation)
            inputs = Inputs.of(prepared, clients)
            if saved is not None:
                inputs.check_same(saved["inputs"])
            sizes = [sum(counts) for counts in clients.class_counts.values()]
            trained = Trained(prepared.model, prepared.spec, prepared.added)
            check_batches(config, sizes, lambda: trained)
            experiment = Experiment(
                config=config,
                prepared=prepared,
                class_counts=clients.class_counts,
                num_validation=clients.num_validation,
                engine=engine.name,
                log=lambda line: log(INFO, line),
                rounds_done=0 if saved is None else saved["round"],
            )
            directory = experiment.directory
            engine.at_exit(partial(_end_in_order, directory, server))
            with closing(experiment), _saying_how_to_continue(directory):
                strategy = kind(_context(config, prepared, clients, told, server, experiment))
                rounds = Rounds(config, strategy, experiment, inputs.state_dict(), saved)
                return rounds.run(engine.asking(grid, server))


@contextmanager
def _saying_how_to_continue(directory: RunDirectory) -> Iterator[None]:
    """Say what is kept of a run that ends early."""
    try:
        yield
    except FedSplitError as error:
        error.args = (f"{error} {directory.how_to_continue()}",)
        raise
    except KeyboardInterrupt:
        log(WARNING, "Interrupted. %s", directory.how_to_continue())
        raise


def _end_in_order(directory: RunDirectory, server: SplitServer | None) -> None:
    """Say what is kept, and release what the process holds; its threads end with it."""
    if directory.is_open:
        log(WARNING, "Interrupted. %s", directory.how_to_continue())
        if server is not None:
            server.close()


def _context(
    config: Config,
    prepared: Preparation,
    clients: Clients,
    told: Instructions,
    server: SplitServer | None,
    experiment: Experiment,
) -> RunContext:
    """Return what the strategy works with, now that the number of clients is known."""
    num_clients = len(clients.node_ids)
    weights: tuple[float, ...] = ()
    if config.loss.class_weights == "balanced":
        weights = balanced_weights(clients.class_counts)
    if server is not None:
        server.rule.weigh_classes(weights)
    known = {
        "num_clients": num_clients,
        "answer_seconds": _answer_seconds(config, num_clients),
        "class_weights": list(weights),
    }
    return RunContext(
        config=config,
        clients=clients,
        instructions=told.model_copy(update=known),
        note=experiment.recorder.note,
        note_clients=experiment.recorder.note_clients,
        server=server,
        pool=_pool(config, prepared, num_clients, weights),
        buffers=experiment.client_buffers(),
        progress=experiment.show_progress,
    )


def _instructions(config: Config, prepared: Preparation, run: str, address: str) -> Instructions:
    """Return what every message of the run tells its client."""
    rule = strategy_class(config.strategy).client_rule
    return Instructions(
        run=run,
        num_clients=max(1, config.num_clients),
        num_labels=len(prepared.class_names),
        client_rule=reference_to(rule),
        frozen_sha256=prepared.frozen_digest(split=rule.splits),
        channel_address=address,
        answer_seconds=_answer_seconds(config, max(1, config.num_clients)),
        returns_kept=config.checkpoint_every > 0,
    )


def _answer_seconds(config: Config, num_clients: int) -> float:
    """Return how long a client waits for an answer of the split server."""
    channel = config.channel
    if not strategy_class(config.strategy).synchronous:
        return channel.step_timeout
    # Until all have joined, and then one step for each client.
    return channel.join_timeout + (num_clients + 1) * channel.step_timeout


def _pool(
    config: Config, prepared: Preparation, num_clients: int, class_weights: Sequence[float]
) -> PooledTraining | None:
    """Return training on the images of all clients together, if the strategy asks for it."""
    if not strategy_class(config.strategy).pooled:
        return None
    images = load_pool(config, num_clients, prepared.spec)

    def batches_of(server_round: int) -> Iterator[Batch]:
        for epoch in range(config.local_epochs):
            yield from device_batches(
                images,
                config.batch_size,
                device=config.device,
                generator=generator(config.seed, "pooled batches", server_round, epoch),
                last=config.last_batch,
                augment=augmentation(config, "pooled", server_round, epoch),
            )

    rates = layer_rates(prepared.model, config.layer_decay)
    training = Training.of_clients(config, class_weights=class_weights, layer_rates=rates)
    whole = join_parts(*prepared.model)
    whole.autocast = prepared.autocast
    return PooledTraining(whole, batches_of, training)


@contextmanager
def _served(
    config: Config, prepared: Preparation, engine: Engine
) -> Iterator[tuple[SplitServer | None, str]]:
    """Serve the server part, if the strategy splits; give the server and its address."""
    rule_class = strategy_class(config.strategy).update_rule
    if rule_class is None:
        yield None, ""
        return
    settings = RuleSettings(
        training=Training.of_server(
            config, layer_rates=layer_rates(prepared.model, config.layer_decay)
        ),
        join_seconds=config.channel.join_timeout,
        step_seconds=config.channel.step_timeout,
        cut_gradient=prepared.wire.cut_gradient,
    )
    server = SplitServer(rule=rule_class(prepared.server_part, settings), wire=prepared.wire)
    try:
        channel = engine.open_channel(server, config)
        try:
            yield server, channel.address
        finally:
            channel.close()
    finally:
        server.close()
