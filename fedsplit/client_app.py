"""The Flower ClientApp: a message in, a session or a local loop, a reply out.

Nothing survives in the process between two messages, because any process may serve any client;
what is costly to load is cached by what it depends on, never by who asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
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

from fedsplit.arrays import to_record, to_state
from fedsplit.client_model import HeldModel, held_model
from fedsplit.client_state import (
    keep_optimizer,
    keep_weights,
    kept_weights,
    restore_optimizer,
)
from fedsplit.config import Config
from fedsplit.data.catalog import image_size
from fedsplit.data.loader import Images, batches
from fedsplit.data.shards import Shard, load_shard
from fedsplit.errors import ChannelError, ConfigError, FedSplitError
from fedsplit.exchanged import exchanged, load_exchanged, trains
from fedsplit.models.resolved import resolve
from fedsplit.seeding import generator
from fedsplit.simulation import widen
from fedsplit.split.client import SplitSession
from fedsplit.split.local import (
    Batch,
    LocalResult,
    Objective,
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


# Loading the ClientApp is all that Flower's engine does with an app before it makes its workers.
widen()
app = ClientApp(mods=[explain_errors])


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say who this client is and how many training images of each class it holds.

    With a token, it also meets the other clients at the split server.
    """
    client = _Client(message, context)
    if client.token is not None:
        # Before the images are loaded, which takes its time with many clients in one process. Who
        # has not come is for the server to say: it has seen the meeting as a whole.
        with suppress(ChannelError), client.session(client.token) as session:
            session.finish()
    client.make_frozen()
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
    model = client.model()
    optimizer = make_optimizer(model.held.train().parameters(), config, client.server_round)
    if config.client_optimizer == "kept":
        restore_optimizer(context.state, optimizer)
    held = proximal_term(model.held, client.proximal_mu)
    data = client.train_batches()
    with client.objective(model, training=True) as objective:
        result = train_batches(data, objective, optimizer, held, clip_norm=config.clip_norm)
    # Not before the server has kept its half.
    if config.client_optimizer == "kept":
        keep_optimizer(context.state, optimizer)
    trained = to_record(exchanged(model.held))
    if client.keeps_weights:
        keep_weights(context.state, trained)
    return client.reply(result, trained)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the model, with this client's own part, on its own validation split."""
    client = _Client(message, context)
    model = client.model()
    model.held.eval()
    with client.objective(model, training=False) as objective:
        result = evaluate_batches(client.validation_batches(), objective)
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
        self.run = str(orders.get("run-id", ""))
        self.proximal_mu = float(str(orders.get("proximal-mu", 0.0)))
        self.server_round = int(str(orders.get("server-round", 0)))
        self._address = str(orders.get("channel-address", ""))
        self._frozen = str(orders.get("frozen-sha256", ""))
        self._max_frame_bytes = int(str(orders.get("max-frame-bytes", 0)))
        self.keeps_weights = bool(orders.get("keeps-weights", False))
        self._waits_for_others = bool(orders.get("synchronous", False))
        self.token = str(orders["channel-token"]) if "channel-token" in orders else None
        self.partition_id = _partition_id(context)
        self._state = context.state
        self._data_path = context.node_config.get("data-path")
        self._device = torch.device(self.config.device)
        self._channel_seconds = 0.0

    def shard(self) -> Shard:
        """Return this client's images."""
        path = None if self._data_path is None else str(self._data_path)
        config = self.config
        spec = resolve(config.model.name, run=self.run).input_spec(partial(image_size, config.data))
        return load_shard(self.config, self.partition_id, self.num_clients, spec, path)

    def make_frozen(self) -> None:
        """Load frozen weights before the first round, so that no round has to wait for the hub."""
        if self._frozen:
            self._held()

    def _held(self) -> HeldModel:
        return held_model(
            self.config,
            split=bool(self._address),
            num_labels=self.num_labels,
            frozen=self._frozen,
            run=self.run,
        )

    def model(self) -> HeldModel:
        """Return what this client holds, with the weights of the message or those it has kept."""
        model = self._held()
        if exchanged(model.held):
            arrays = self._message.content.array_records["arrays"]
            if not arrays:  # it has kept its own
                arrays = kept_weights(self._state)
            load_exchanged(model.held, to_state(arrays))
        return model

    @contextmanager
    def objective(self, model: HeldModel, *, training: bool) -> Iterator[Objective]:
        """Give what maps a batch to its loss: here, or with the split server for a whole round."""
        if self.token is None:
            yield lambda x, y: score(model.bottom(x), y)
            return
        with self.session(self.token, cut_gradient=trains(model.bottom)) as session:
            bottom, top = model.bottom, model.top
            if top is not None:
                trunk = session.trunk if training else session.evaluate_trunk
                yield lambda x, y: score(top(trunk(bottom(x))), y)
            else:
                step = session.train_step if training else session.evaluate_step
                yield lambda x, y: step(bottom(x), y)
            session.finish()
            self._channel_seconds = session.waited_seconds

    def session(self, token: str, *, cut_gradient: bool = True) -> SplitSession:
        """Open the stream to the split server."""
        channel = self.config.channel
        wait = channel.step_timeout
        if self._waits_for_others:
            # Until all have joined, and then in a step for one after another.
            wait = channel.join_timeout + (self.num_clients + 1) * channel.step_timeout
        return SplitSession.connect(
            self._address,
            token,
            step_timeout=wait,
            max_frame_bytes=self._max_frame_bytes,
            cut_gradient=cut_gradient,
            output_gradient=self.config.split.server_trains,
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
            "channel-seconds": self._channel_seconds,
        }
        content = RecordDict({"metrics": MetricRecord(metrics)})
        if arrays:  # what has nothing to train returns no weights
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
