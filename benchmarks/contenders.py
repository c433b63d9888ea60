"""The contenders: a plain loop over the whole model, and the same steps split."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch.nn.functional import cross_entropy

from benchmarks.parties import Clients, Invitation, Server, direct, grpc, whole_batches
from benchmarks.processes import Remote
from benchmarks.steady import Log, for_seconds, logged, throughput
from fedsplit import Config
from fedsplit.data.shards import load_shard
from fedsplit.models.loading import input_spec, load_model
from fedsplit.seeding import seeded_init
from fedsplit.split.training import Training
from fedsplit.threads import torch_threads

CLIENT_WORKERS = 2


class Contender(Protocol):
    """A way to train."""

    def window(self, seconds: float) -> float:
        """Train for a number of seconds, and return samples per second."""

    def close(self) -> None:
        """Free what it holds."""


class Centralised:
    """The plain loop: whole transformers model, pooled images, one optimizer."""

    def __init__(self, config: Config, threads: int) -> None:
        self._config = config
        self._threads = threads
        with seeded_init(config.seed, "model"):
            self._model = load_model(config.model.name, pretrained=False, num_labels=10).train()
        self._optimizer = Training.of_clients(config).make_optimizer(self._model.named_parameters())
        # One client with the training images of all clients.
        self._images = load_shard(config, 0, 1, input_spec(config.model.name)).train

    def window(self, seconds: float) -> float:
        """Continue the training."""
        log: Log = []
        timed = logged(for_seconds(whole_batches(self._images, self._config), seconds), log)
        with torch_threads(self._threads):
            for pixels, labels in timed:
                self._optimizer.zero_grad()
                loss = cross_entropy(self._model(pixel_values=pixels).logits, labels)
                torch.autograd.backward(loss)
                self._optimizer.step()
        return throughput([log])

    def close(self) -> None:
        """Do nothing: nothing is open."""


class InProcess:
    """Server and clients in threads of this process, over the direct channel."""

    def __init__(self, config: Config) -> None:
        self._server = Server(config, direct)
        self._clients = [Clients(config, share) for share in _shares(config)]
        self._threads = ThreadPoolExecutor(CLIENT_WORKERS)

    def window(self, seconds: float) -> float:
        """Train a round."""
        invitation = self._server.open_round()

        def train(clients: Clients) -> Log:
            return clients.train(invitation, seconds)

        logs = list(self._threads.map(train, self._clients))
        self._server.close_round()
        return throughput(logs)

    def close(self) -> None:
        """End the threads and the server."""
        self._threads.shutdown()
        self._server.close()


class OverGrpc:
    """A server process and client processes, over gRPC."""

    def __init__(self, config: Config) -> None:
        self._server = Remote(Server, config, grpc)
        self._clients = [Remote(Clients, config, share) for share in _shares(config)]

    def window(self, seconds: float) -> float:
        """Train a round."""
        invitation: Invitation = self._server.call("open_round")
        for clients in self._clients:
            clients.ask("train", invitation, seconds)
        logs: list[Log] = [clients.result() for clients in self._clients]
        self._server.call("close_round")
        return throughput(logs)

    def close(self) -> None:
        """End the processes."""
        for remote in [*self._clients, self._server]:
            remote.close()


def _shares(config: Config) -> list[range]:
    """Deal the clients out to the workers."""
    return [range(w, config.num_clients, CLIENT_WORKERS) for w in range(CLIENT_WORKERS)]
