"""The Flower ClientApp: a message in, a session or a local loop, a reply out.

Nothing survives in the process between two messages, because any process may serve any client;
what is costly to load is cached by what it depends on, never by who asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from logging import ERROR

import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    MetricRecordValues,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import log
from flwr.common.constant import ErrorCode
from torch import nn

from fedsplit.config import Config
from fedsplit.data.loader import Images, Shard, batches, load_shard
from fedsplit.errors import ConfigError, FedSplitError
from fedsplit.models.loading import empty_bottom, empty_model, input_spec
from fedsplit.models.split import join_parts, split_model
from fedsplit.seeding import generator
from fedsplit.split.client import SplitSession
from fedsplit.split.local import (
    Batch,
    LocalResult,
    evaluate_batches,
    proximal_term,
    train_batches,
)
from fedsplit.split.steps import make_optimizer, score


def explain_errors(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Answer with one readable line; what we did not foresee is also logged, with its traceback.

    Left to Flower, the line would be another one in each engine: in a simulation, Ray's traceback.
    """
    try:
        return call_next(message, context)
    except FedSplitError as error:
        reason = str(error)
    except Exception as error:
        log(ERROR, "The ClientApp failed", exc_info=error)
        reason = f"{type(error).__name__}: {error}"
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


app = ClientApp(mods=[explain_errors])


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say who this client is and how many training images of each class it holds."""
    client = _Client(message, context)
    counts = [0] * client.num_labels
    if client.partition_id < client.num_clients:
        labels = client.shard().train.labels
        counts = torch.bincount(labels, minlength=client.num_labels).tolist()
    answer = ConfigRecord({"partition-id": client.partition_id, "class-counts": counts})
    return Message(RecordDict({"config": answer}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train this client's part for one round, and return it."""
    client = _Client(message, context)
    config = client.config
    model = client.model().train()
    optimizer = make_optimizer(model.parameters(), config)
    data = client.train_batches()
    held = proximal_term(model, client.proximal_mu)
    if client.token is None:
        result = train_batches(data, lambda x, y: score(model(x), y), optimizer, held)
    else:
        with client.session(client.token) as session:
            result = train_batches(
                data, lambda x, y: session.train_step(model(x), y), optimizer, held
            )
            session.finish()
    return client.reply(result, ArrayRecord(model.state_dict()))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the aggregated model on this client's own validation split."""
    client = _Client(message, context)
    model = client.model().eval()
    data = client.validation_batches()
    if client.token is None:
        result = evaluate_batches(data, lambda x, y: score(model(x), y))
    else:
        with client.session(client.token) as session:
            result = evaluate_batches(data, lambda x, y: session.evaluate_step(model(x), y))
            session.finish()
    return client.reply(result)


class _Client:
    """One client for the length of one message."""

    def __init__(self, message: Message, context: Context) -> None:
        self._message = message
        self.config = Config.from_flat(context.run_config)
        if self.config.torch_threads != torch.get_num_threads():
            torch.set_num_threads(self.config.torch_threads)
        orders = message.content.config_records["config"]
        self.num_clients = int(str(orders["num-clients"]))
        self.num_labels = int(str(orders["num-labels"]))
        self.proximal_mu = float(str(orders.get("proximal-mu", 0.0)))
        self.server_round = int(str(orders.get("server-round", 0)))
        self._address = str(orders.get("channel-address", ""))
        self._max_frame_bytes = int(str(orders.get("max-frame-bytes", 0)))
        self.token = str(orders["channel-token"]) if "channel-token" in orders else None
        self.partition_id = _partition_id(context)
        self._data_path = context.node_config.get("data-path")
        self._device = torch.device(self.config.device)

    def shard(self) -> Shard:
        """Return this client's images."""
        path = None if self._data_path is None else str(self._data_path)
        spec = input_spec(self.config.model.name)
        return load_shard(self.config, self.partition_id, self.num_clients, spec, path)

    def model(self) -> nn.Module:
        """Return the part that this client holds, with the weights of the message."""
        config = self.config
        if self.token is None:
            whole = empty_model(config.model.name, num_labels=self.num_labels)
            model = join_parts(*split_model(whole, [config.split.cut_layer]))
        else:
            cut = config.split.cut_layer
            model = empty_bottom(config.model.name, cut, num_labels=self.num_labels)
        arrays = self._message.content.array_records["arrays"]
        model.load_state_dict(arrays.to_torch_state_dict(), strict=True)
        return model.to(self._device)

    def session(self, token: str) -> SplitSession:
        """Open the stream to the split server."""
        return SplitSession.connect(
            self._address,
            token,
            step_timeout=self.config.channel.step_timeout,
            max_frame_bytes=self._max_frame_bytes,
        )

    def train_batches(self) -> Iterator[Batch]:
        """Yield the round's batches; each epoch has an order of its own."""
        config = self.config
        images = self.shard().train
        for epoch in range(config.local_epochs):
            order = generator(config.seed, "batches", self.server_round, self.partition_id, epoch)
            yield from self._batches(images, order)

    def validation_batches(self) -> Iterator[Batch]:
        """Yield the validation split in order."""
        return self._batches(self.shard().validation, None)

    def _batches(self, images: Images, order: torch.Generator | None) -> Iterator[Batch]:
        for indices in batches(len(images), self.config.batch_size, generator=order):
            pixels, labels = images.batch(indices)
            yield pixels.to(self._device), labels.to(self._device)

    def reply(self, result: LocalResult, arrays: ArrayRecord | None = None) -> Message:
        """Return the reply that Flower's strategies expect."""
        metrics: dict[str, MetricRecordValues] = {
            "num-examples": result.num_examples,
            "loss": result.loss,
            "accuracy": result.accuracy,
        }
        content = RecordDict({"metrics": MetricRecord(metrics)})
        if arrays is not None:
            content["arrays"] = arrays
        return Message(content, reply_to=self._message)


def _partition_id(context: Context) -> int:
    value = context.node_config.get("partition-id")
    if not isinstance(value, int) or value < 0:
        raise ConfigError(
            f"This SuperNode has partition-id = {value!r}. Start it with "
            "--node-config 'partition-id=0', a number from 0 to the number of clients less one."
        )
    return value
