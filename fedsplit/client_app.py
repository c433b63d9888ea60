"""The Flower ClientApp: a message in, a session or a local loop, a reply out.

A process keeps no client's state between two messages, because any process may serve any client.
What is expensive to load is cached under all that it depends on, never under a client.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsplit.arrays import to_record, to_state
from fedsplit.channel.connect import connect
from fedsplit.channel.endpoint import Stream
from fedsplit.channel_address import check_address
from fedsplit.client_errors import explain_errors, tell_site
from fedsplit.client_side import ClientModel, client_model, client_training, images_of_run
from fedsplit.client_state import (
    check_kept,
    copy_kept,
    copy_round,
    keep_optimizer,
    keep_rule,
    keep_weights,
    kept_weights,
    mark_kept,
    note_gradients,
    restore_kept,
    restore_optimizer,
    restore_rule,
    seen_gradients,
)
from fedsplit.config import Config, NodeConfig
from fedsplit.data.augment import augmentation
from fedsplit.data.digest import digest_if_readable
from fedsplit.data.loader import device_batches
from fedsplit.data.shards import Shard, load_shard
from fedsplit.errors import ChannelError, UnreachableError, shorten
from fedsplit.exchanged_state import exchanged, load_exchanged
from fedsplit.fields import checked_values
from fedsplit.initial_model import model_of
from fedsplit.input_spec import InputSpec
from fedsplit.messages import ARRAYS, CONFIG, METRICS, Description, Instructions, Measurements
from fedsplit.models.resolved import ResolvedModel
from fedsplit.references import load_class
from fedsplit.seeding import generator
from fedsplit.split.answer_checks import AnswerChecks
from fedsplit.split.client import SplitSession, attend_rendezvous
from fedsplit.split.client_rules import ClientRule, ClientSide, SplitClient
from fedsplit.split.defences import load_defence
from fedsplit.split.divergence import own_senders
from fedsplit.split.local import Batch, evaluate_batches, proximal_term
from fedsplit.split.phases import Purpose
from fedsplit.split.totals import LocalResult
from fedsplit.split.training import Training
from fedsplit.tls import client_tls, exposed_key

_RENDEZVOUS_FRAME_BYTES = 4096
"""Bound on a frame of the rendezvous, which carries no tensors."""


app = ClientApp(mods=[explain_errors])


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say who this client is and how many training images of each class it holds.

    With a token, it also takes part in the rendezvous at the split server.
    """
    client = _Client(message, context)
    # Before the images are loaded, which is slow with many clients in one process.
    channel_fault = client.attend_rendezvous() if client.told.channel_token else ""
    for text in (channel_fault, exposed_key(client.node)):
        if text:
            tell_site(context, text)
    if client.told.frozen_sha256:
        client.empty_model()  # loads frozen weights, so that no round has to wait for the hub
    answer = Description(
        partition_id=client.partition_id,
        class_counts=[0] * client.told.num_labels,
        channel_fault=channel_fault,
    )
    if client.partition_id < client.told.num_clients:
        shard = client.shard()
        answer = Description(
            partition_id=client.partition_id,
            class_counts=torch.bincount(
                shard.train.labels, minlength=client.told.num_labels
            ).tolist(),
            num_validation=len(shard.validation),
            digest=digest_if_readable(*shard) if client.told.returns_kept else "",
            channel_fault=channel_fault,
            own_images=bool(client.node.data_path),
        )
    return Message(RecordDict({CONFIG: answer.to_record()}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train this client's part for one round, and return it."""
    client = _Client(message, context)
    model = client.model()
    held = model.held.train()
    optimizer = client.training.make_optimizer(held.named_parameters(), client.told.server_round)
    kept = client.config.client_optimizer == "kept"
    if kept:
        restore_optimizer(context.state, optimizer)
    before_step = proximal_term(held, client.told.proximal_mu)
    with client.rule(model, Purpose.TRAIN) as rule:
        restore_rule(context.state, rule)
        result = rule.train(client.train_batches(), optimizer, before_step)
    # Kept only after the server has kept its half.
    if kept:
        keep_optimizer(context.state, optimizer)
    keep_rule(context.state, rule)
    trained = to_record(exchanged(held))
    if rule.keeps_weights:
        keep_weights(context.state, trained)
    mark_kept(context.state, client.told.server_round)
    return client.reply(result, rule, trained)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the model, with this client's own part, on its own validation split."""
    client = _Client(message, context)
    model = client.model()
    model.held.eval()
    with client.rule(model, Purpose.EVALUATE) as rule:
        restore_rule(context.state, rule)
        result = evaluate_batches(client.validation_batches(), rule.evaluate_step)
    return client.reply(result)


class _Client:
    """One client while it handles one message."""

    def __init__(self, message: Message, context: Context) -> None:
        self._message = message
        self._state = context.state
        restore_kept(message.content, context.state)
        self.node = NodeConfig.from_flat(context.node_config)
        self.config = Config.from_flat(
            {**context.run_config, **({"device": self.node.device} if self.node.device else {})}
        )
        if self.config.torch_threads != torch.get_num_threads():
            torch.set_num_threads(self.config.torch_threads)
        self.told = Instructions.from_record(message.content.config_records[CONFIG])
        check_kept(context.state, self.told.kept_round)
        self.partition_id = self.node.partition_id
        self._device = torch.device(self.config.device)
        self._channel_seconds = 0.0

    def shard(self) -> Shard:
        """Return this client's images."""
        told, path = self.told, self.node.data_path or None
        return load_shard(
            self.config, self.partition_id, told.num_clients, self._spec, path, told.class_names
        )

    @cached_property
    def _model(self) -> ResolvedModel:
        return model_of(self.config, run=self.told.run)

    @cached_property
    def training(self) -> Training:
        """What this client trains with."""
        return client_training(self.config, self._model, self.told)

    @cached_property
    def _spec(self) -> InputSpec:
        return images_of_run(self.config, self._model, self.told)

    def empty_model(self) -> ClientModel:
        """Return what this client holds; weights that train have no values yet."""
        return client_model(
            self.config,
            self._model,
            rule=load_class(self.told.client_rule, key="strategy", kind=ClientRule),
            spec=self._spec,
            num_labels=self.told.num_labels,
            frozen=self.told.frozen_sha256,
        )

    def model(self) -> ClientModel:
        """Return what this client holds, with the weights of the message or those it has kept."""
        model = self.empty_model()
        if exchanged(model.held):
            arrays = self._message.content.array_records[ARRAYS]
            if not arrays:  # it has kept its own
                arrays = kept_weights(self._state)
            load_exchanged(model.held, to_state(arrays))
        return model

    @contextmanager
    def rule(self, model: ClientModel, purpose: Purpose) -> Iterator[ClientRule]:
        """Yield the client rule of this message, with a session if it splits the model."""
        names = (purpose, self.told.server_round, self.partition_id)
        side = ClientSide(
            bottom=model.bottom,
            top=model.top,
            added=model.added,
            training=self.training,
            draw=partial(generator, self.config.seed, *names),
            defence=load_defence(self.config.defence.name),
        )
        if not issubclass(model.rule, SplitClient):
            yield model.rule(side)
            return
        assert model.wire is not None
        stream = self.stream(model.wire.max_frame_bytes)
        own = own_senders(model.rule, type(side.defence))
        checks = AnswerChecks(
            self.config.channel.cut_gradient_factor * max(1.0, *self.told.class_weights, 0.0),
            seen_gradients(self._state, self.told.run),
            cross_entropy=model.rule.cross_entropy,
        )
        with SplitSession(stream, model.wire, names, own=own, checks=checks) as session:
            yield model.rule(side, session)
            session.finish()
            note_gradients(self._state, self.told.run, checks.largest)
            self._channel_seconds = session.waited_seconds

    def stream(self, max_frame_bytes: int) -> Stream:
        """Open the stream to the split server."""
        channel = self.config.channel
        return connect(
            check_address(self.told.channel_address, self.node.channel_address or None),
            self.told.channel_token,
            step_timeout=self.told.answer_seconds,
            max_frame_bytes=max_frame_bytes,
            reconnect_timeout=channel.reconnect_timeout,
            # Sooner than others that wait for this client would give it up.
            ask_again_after=channel.step_timeout / 2,
            tls=client_tls(channel, self.node),
        )

    def attend_rendezvous(self) -> str:
        """Meet the others at the split server; return why it cannot be reached, if so.

        What the server refuses is not reported: it has seen the whole rendezvous.
        """
        try:
            with self.stream(_RENDEZVOUS_FRAME_BYTES) as stream:
                attend_rendezvous(stream)
        except ChannelError as error:
            return shorten(error) if isinstance(error, UnreachableError) else ""
        return ""

    def train_batches(self) -> Iterator[Batch]:
        """Yield the round's batches; each epoch has a different order, and other random changes."""
        config = self.config
        for epoch in range(config.local_epochs):
            names = (self.told.server_round, self.partition_id, epoch)
            yield from device_batches(
                self.shard().train,
                config.batch_size,
                device=self._device,
                generator=generator(config.seed, "batches", *names),
                last=config.last_batch,
                augment=augmentation(config, "client", *names),
            )

    def validation_batches(self) -> Iterator[Batch]:
        """Yield the validation split in order."""
        return device_batches(self.shard().validation, self.config.batch_size, device=self._device)

    def reply(
        self, result: LocalResult, rule: ClientRule | None = None, arrays: ArrayRecord | None = None
    ) -> Message:
        """Return the reply that Flower's strategies expect."""
        measured = Measurements(
            num_examples=result.num_examples,
            loss=result.loss,
            accuracy=result.accuracy,
            channel_seconds=self._channel_seconds,
            metrics={} if rule is None else _measured(rule),
        )
        content = RecordDict({METRICS: measured.to_record()})
        if arrays:  # a client with nothing to train returns no weights
            content[ARRAYS] = arrays
        if rule is not None:  # evaluation changes nothing that is kept
            copy = copy_kept if self.told.returns_kept else copy_round
            copy(self._state, content)
        return Message(content, reply_to=self._message)


def _measured(rule: ClientRule) -> dict[str, float]:
    return checked_values(rule.measured(), rule.metrics, rule=type(rule))
