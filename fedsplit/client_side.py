"""What a client trains with in one round: its part of the model, what its rule adds, the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from fedsplit.client_model import held_model
from fedsplit.config import Config
from fedsplit.errors import ModelError, shorten
from fedsplit.exchanged_state import trains
from fedsplit.initial_model import spec_of
from fedsplit.input_spec import InputSpec
from fedsplit.messages import Instructions
from fedsplit.models.resolved import ResolvedModel
from fedsplit.models.split import hold_parts
from fedsplit.models.trainable import layer_rates
from fedsplit.split.client_rules import ClientRule
from fedsplit.split.training import Training
from fedsplit.split.wire import Wire
from fedsplit.wiring import added_modules, make_wire


class ClientModel(NamedTuple):
    """What a client holds, and its client rule.

    Attributes
    ----------
    rule : type[ClientRule]
        The rule.
    held : nn.Module
        All modules of the client, with the names of the whole model.
    bottom : nn.Module
        The whole model, if it is not split.
    top : nn.Module | None
        The top, in the U-shaped topology.
    added : Mapping[str, nn.Module]
        What the rule adds.
    wire : Wire | None
        What crosses the channel, if the model is split.
    """

    rule: type[ClientRule]
    held: nn.Module
    bottom: nn.Module
    top: nn.Module | None
    added: Mapping[str, nn.Module]
    wire: Wire | None


def images_of_run(config: Config, model: ResolvedModel, told: Instructions) -> InputSpec:
    """Return the images that the model takes, if the server makes them in the same way.

    Raises
    ------
    ModelError
        If it does not: the client would train on, and be scored on, other pixels than the test's.
    FedSplitError
        As `spec_of`.
    """
    spec = spec_of(config, model, look=False)
    if told.images not in ("", str(spec)):
        raise ModelError(
            f"This client would give the model '{config.model.name}' other images than the server: "
            f"{spec}, and the server {shorten(told.images)}. Give both the same "
            "preprocessor_config.json, and the same versions of transformers, torchvision and timm."
        )
    return spec


def client_training(config: Config, model: ResolvedModel, told: Instructions) -> Training:
    """Return what a client trains with."""
    rates: tuple[tuple[str, float], ...] = ()
    if config.layer_decay != 1.0:
        parts = model.parts_skeleton(config.split.points, told.num_labels)
        rates = layer_rates(parts, config.layer_decay)
    return Training.of_clients(config, class_weights=told.class_weights, layer_rates=rates)


def client_model(
    config: Config,
    model: ResolvedModel,
    *,
    rule: type[ClientRule],
    spec: InputSpec,
    num_labels: int,
    frozen: str,
) -> ClientModel:
    """Return what a client holds; weights that train have no values yet.

    Parameters
    ----------
    config : Config
        The run's configuration.
    model : ResolvedModel
        The model of `config`.
    rule : type[ClientRule]
        How the client trains.
    spec : InputSpec
        The images that the model takes.
    num_labels : int
        Classes.
    frozen : str
        The server's `frozen_digest` of the same part.

    Raises
    ------
    FedSplitError
        If the model cannot be loaded, or its frozen weights differ from the server's.
    """
    held, bottom, top = held_model(
        config, model, split=rule.splits, num_labels=num_labels, frozen=frozen
    )
    if not rule.splits:
        return ClientModel(rule, held, bottom, None, {}, None)
    wire = make_wire(
        config,
        model,
        num_labels=num_labels,
        spec=spec,
        cut_gradient=rule.uses_cut_gradient and trains(bottom),
    )
    added = added_modules(rule, config, smashed=wire.smashed, num_labels=num_labels)
    if added:
        held = hold_parts(bottom, *([] if top is None else [top]), added=added)
    return ClientModel(rule, held, bottom, top, added, wire)
