"""The parties of a split round, for threads or processes: a server, and clients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.steady import Log, for_seconds, logged
from fedsplit import Config
from fedsplit.algorithms import strategy_class
from fedsplit.channel.connect import connect
from fedsplit.channel.direct import DirectChannel
from fedsplit.channel.endpoint import Channel
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.data.loader import Images, batches
from fedsplit.data.shards import load_shard
from fedsplit.models.loading import input_spec
from fedsplit.preparation import prepare
from fedsplit.seeding import generator
from fedsplit.split.client import SplitSession
from fedsplit.split.local import Batch, BatchLoss, train_batches
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import RuleSettings
from fedsplit.split.server import SplitServer
from fedsplit.split.training import Training

OpenChannel = Callable[[SplitServer], Channel]


class Invitation(NamedTuple):
    """What clients need to take part in a round.

    Attributes
    ----------
    address : str
        The address of the split server.
    tokens : dict[int, str]
        Participant -> its token.
    max_frame_bytes : int
        Length of the longest legal frame.
    """

    address: str
    tokens: dict[int, str]
    max_frame_bytes: int


class Server:
    """The split server of fedsplit behind one of its channels."""

    def __init__(self, config: Config, open_channel: OpenChannel) -> None:
        torch.set_num_threads(config.torch_threads)
        prepared = prepare(config)
        rule = strategy_class(config.strategy).update_rule
        assert rule is not None
        self._num_clients = config.num_clients
        settings = RuleSettings(Training.of_server(config))
        self._server = SplitServer(rule=rule(prepared.server_part, settings), wire=prepared.wire)
        self._channel = open_channel(self._server)

    def open_round(self) -> Invitation:
        """Invite all clients."""
        tokens = self._server.open_round(Purpose.TRAIN, range(self._num_clients))
        return Invitation(self._channel.address, tokens, self._server.max_frame_bytes)

    def close_round(self) -> None:
        """Average the copies of a round that all clients have finished."""
        report = self._server.report()
        assert not report.failures, report.failures
        self._server.close_round(report.num_examples)

    def close(self) -> None:
        """End the channel and the server."""
        self._channel.close()
        self._server.close()


def direct(server: SplitServer) -> Channel:
    """Serve this process."""
    return DirectChannel(server)


def grpc(server: SplitServer) -> Channel:
    """Serve this machine."""
    return GrpcChannel(server, address="127.0.0.1:0", max_streams=1024)  # as the ServerApp does


class Clients:
    """Several clients that one thread runs one after another.

    Parameters
    ----------
    config : Config
        The configuration of the run.
    partitions : Sequence[int]
        The partition ids of the clients.
    """

    def __init__(self, config: Config, partitions: Sequence[int]) -> None:
        self._config = config
        prepared = prepare(config)
        self._bottom, self._wire = prepared.model.bottom.train(), prepared.wire
        self._images = {
            k: load_shard(config, k, config.num_clients, input_spec(config.model.name)).train
            for k in partitions
        }

    def train(self, invitation: Invitation, seconds: float) -> Log:
        """Train the bottom of each client for its share of the seconds, in its own session."""
        torch.set_num_threads(self._config.torch_threads)
        log: Log = []
        for partition, images in self._images.items():
            share = seconds / len(self._images)
            timed = logged(for_seconds(whole_batches(images, self._config), share), log)
            self._train_one(invitation, partition, timed)
        return log

    def _train_one(self, invitation: Invitation, partition: int, timed: Iterator[Batch]) -> None:
        bottom = copy.deepcopy(self._bottom)
        training = Training.of_clients(self._config)
        optimizer = training.make_optimizer(bottom.named_parameters())
        stream = connect(
            invitation.address,
            invitation.tokens[partition],
            step_timeout=self._config.channel.step_timeout,
            max_frame_bytes=invitation.max_frame_bytes,
        )
        with SplitSession(stream, self._wire) as session:

            def objective(images: Tensor, labels: Tensor) -> BatchLoss:
                return BatchLoss.of(session.train_step(bottom(images), labels))

            train_batches(timed, objective, optimizer, training)
            session.finish()

    def close(self) -> None:
        """Do nothing: nothing is open between two rounds."""


def whole_batches(images: Images, config: Config) -> Iterator[Batch]:
    """Yield full batches, epoch after epoch without end, like a client of a run."""
    for epoch in count():
        order = generator(config.seed, "bench", epoch)
        for indices in batches(len(images), config.batch_size, generator=order):
            if len(indices) == config.batch_size:
                yield images.batch(indices)
