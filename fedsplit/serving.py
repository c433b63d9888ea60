"""The split server of a run, behind the channel of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flwr.serverapp import Grid

from fedsplit.algorithms import strategy_class
from fedsplit.channel.endpoint import Channel, SessionHost
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.config import ChannelConfig, Config
from fedsplit.models.trainable import layer_rates
from fedsplit.observers import NOBODY, Observers
from fedsplit.participants import max_streams
from fedsplit.preparation import Preparation, magnitude_bounds
from fedsplit.split.rules import RuleSettings
from fedsplit.split.server import SplitServer
from fedsplit.split.training import Training
from fedsplit.tls import server_tls


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
    has_sites : Callable[[], bool]
        Returns whether clients belong to others: the run then goes without those that cannot take
        part. In a simulation their faults are those of the run.
    observers : Observers
        What watches a run from the process that has asked for it.
    check : Callable[[ChannelConfig], object]
        Refuses what the channel cannot be opened with, before anything is loaded.
    """

    name: str
    open_channel: Callable[[SessionHost, Config], Channel]
    make_room: Callable[[], object] = lambda: None
    at_exit: Callable[[Callable[[], object]], object] = lambda function: None
    asking: Callable[[Grid, SplitServer | None], Grid] = lambda grid, server: grid
    has_sites: Callable[[], bool] = lambda: False
    observers: Observers = NOBODY
    check: Callable[[ChannelConfig], object] = lambda channel: None


def open_grpc(host: SessionHost, config: Config) -> Channel:
    """Listen where the config says; each open stream holds a thread."""
    channel = config.channel
    return GrpcChannel(
        host,
        address=channel.address,
        advertise=channel.advertise,
        tls=server_tls(channel),
        max_streams=max_streams(config),
        reconnect_seconds=channel.reconnect_timeout,
    )


@contextmanager
def served(
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
    server = SplitServer(
        rule=rule_class(prepared.server_part, settings),
        wire=prepared.wire,
        magnitudes=magnitude_bounds(prepared, config),
    )
    try:
        channel = engine.open_channel(server, config)
        try:
            yield server, channel.address
        finally:
            channel.close()
    finally:
        server.close()
