"""The Flower ServerApp: config -> strategy -> results."""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from threading import Event

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedsplit.absolute_paths import relative_place
from fedsplit.algorithms import strategy_class
from fedsplit.batch_check import Trained
from fedsplit.checking import check_batches
from fedsplit.collector import collect_again
from fedsplit.config import Config
from fedsplit.data.run import reading
from fedsplit.errors import CheckpointError, FedSplitError, RunError, sentence
from fedsplit.experiment import Experiment, Outcome
from fedsplit.flower_internals import (
    call_at_exit,
    is_deployed,
    log_without_colours,
    replace_dead_workers,
    report_before_cleanup,
    widen_simulation,
)
from fedsplit.inputs import Inputs
from fedsplit.messages import Instructions
from fedsplit.objects import held_arguments
from fedsplit.participants import check_clients
from fedsplit.pool import pooled_training, with_counts_of_pool
from fedsplit.preparation import Preparation, prepare
from fedsplit.references import reference_to
from fedsplit.results.last_process import LastProcess
from fedsplit.results.run_directory import RunDirectory
from fedsplit.resume import last_state
from fedsplit.rounds import Rounds
from fedsplit.run_log import note, run_log, say, warn
from fedsplit.serving import Engine, open_grpc, served
from fedsplit.split.loss import balanced_weights
from fedsplit.split.server import SplitServer
from fedsplit.threads import torch_threads
from fedsplit.tls import check_certificates
from strategies.asking import AskingGrid
from strategies.clients import Clients
from strategies.context import RunContext
from strategies.discovery import discover

app = ServerApp()


FLOWER = Engine(
    "flower",
    open_grpc,
    widen_simulation,
    call_at_exit,
    AskingGrid,
    is_deployed,
    check=check_certificates,
)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the app for ``flwr run``."""
    logging.getLogger("flwr").addFilter(_without_traceback)
    log_without_colours()
    report_before_cleanup()
    replace_dead_workers()
    config = Config.from_flat(context.run_config, source="The run config")
    if place := relative_place(config):
        print(place)  # noqa: T201
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
    threads, run, interrupted = torch_threads(config.torch_threads), secrets.token_hex(8), Event()
    with run_log(config.console) as lines, threads, reading(config.data):
        engine.check(config.channel)
        saved = last_state(config, [*held_arguments(), *engine.observers.names])
        prepared = prepare(config, run=run, observers=engine.observers)
        collect_again()
        kind = strategy_class(config.strategy)
        with served(config, prepared, engine) as (server, address):
            told = _instructions(config, prepared, run, address)
            if kind.synchronous:
                engine.make_room()
            meeting = server if kind.synchronous else None
            clients = discover(
                engine.asking(grid, meeting),
                config,
                instructions=told,
                rendezvous=meeting,
                may_be_left_out=engine.has_sites(),
            )
            check_clients(config, len(clients.node_ids), clients.num_validation)
            inputs = Inputs.of(prepared, clients)
            if saved is not None:
                inputs, clients = inputs.continuing(saved["inputs"], clients)
            clients = with_counts_of_pool(config, clients, prepared.spec)
            sizes = {client: sum(clients.class_counts[client]) for client in clients.node_ids}
            trained = Trained(prepared.model, prepared.spec, prepared.added)
            check_batches(config, sizes, lambda: trained)
            experiment = Experiment(
                config=config,
                prepared=prepared,
                clients=clients,
                process=LastProcess(engine.name, engine.observers.names, engine.has_sites()),
                rounds_done=0 if saved is None else saved["round"],
            )
            directory = experiment.directory
            engine.at_exit(partial(_end_in_order, directory, server, interrupted))
            with closing(experiment), _saying_how_to_continue(directory, interrupted):
                lines.write_to(directory.log_path)
                if saved is not None:
                    done, total = saved["round"], config.num_server_rounds
                    say(f"Continuing after round {done} of {total}")
                strategy = kind(_context(config, prepared, clients, told, server, experiment))
                rounds = Rounds(config, strategy, experiment, inputs.state_dict(), saved)
                return rounds.run(engine.asking(grid, server))


@contextmanager
def _saying_how_to_continue(directory: RunDirectory, interrupted: Event) -> Iterator[None]:
    """Say what is kept of a run that ends early; `interrupted` says whether it was asked to."""
    try:
        yield
    except CheckpointError:
        raise  # it says itself what to do
    except FedSplitError as error:
        # Otherwise it was refused, and has not begun; or its clients failed because it ends.
        if error.exit_code == RunError.exit_code and not interrupted.is_set():
            directory.write_error(error)
        error.args = (f"{sentence(error)} {directory.how_to_continue()}",)
        raise
    except KeyboardInterrupt as error:
        error.args = (f"Interrupted. {directory.how_to_continue()}",)
        note(str(error))
        raise
    except Exception as error:
        directory.write_error(error)
        note(traceback.format_exc())
        raise


def _end_in_order(directory: RunDirectory, server: SplitServer | None, interrupted: Event) -> None:
    """Say what is kept, and release what the process holds; its threads end with it."""
    if directory.is_open:
        interrupted.set()
        warn(f"Interrupted. {directory.how_to_continue()}")
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
    num_clients = len(clients.class_counts)
    weights: tuple[float, ...] = ()
    if config.loss.class_weights == "balanced":
        weights = balanced_weights(clients.class_counts)
    if server is not None:
        server.rule.weigh_classes(weights)
        for shown in server.magnitudes.values():
            shown.weigh(max(weights, default=1.0))
            shown.expect(len(clients.node_ids))
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
        pool=pooled_training(config, prepared, num_clients, weights),
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
        class_names=list(prepared.class_names),
        images=str(prepared.spec),
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
