"""A checked run, with its model and test images in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from fedsplit.algorithms import strategy_class
from fedsplit.channel.frame import Kind
from fedsplit.checking import check
from fedsplit.config import Config
from fedsplit.data.catalog import load_images
from fedsplit.data.colours import tell_lost_colours
from fedsplit.data.loader import Images
from fedsplit.data.shards import load_test
from fedsplit.dtype_check import check_arithmetic
from fedsplit.exchanged_state import frozen_digest, tensors_digest, trains
from fedsplit.initial_model import autocast_of, initial_model
from fedsplit.input_spec import InputSpec
from fedsplit.models.labels import tell_other_classes
from fedsplit.models.split import SplitModel, hold_parts, join_parts
from fedsplit.models.stages import Part
from fedsplit.models.trainable import unused_weights_of
from fedsplit.objects import is_object
from fedsplit.observers import NOBODY, Observers
from fedsplit.seeding import generator, unchanged_generator
from fedsplit.split.client_rules import ClientRule
from fedsplit.split.defences import load_defence, protected
from fedsplit.split.magnitude import GradientMagnitudes, Magnitudes, magnitudes
from fedsplit.split.steps import input_gradient, unchanged_buffers
from fedsplit.split.wire import Wire
from fedsplit.wiring import added_modules, make_wire


@dataclass(frozen=True)
class Preparation:
    """A checked run, with its model and test images in memory.

    Attributes
    ----------
    model : SplitModel
        With its initial weights, on the run's device.
    spec : InputSpec
        The images that the model takes.
    wire : Wire
        What crosses the channel, if the model is split.
    pretrained : bool
        Whether the weights come from a checkpoint, and not from the seed.
    test : Images
        The held-out images.
    class_names : tuple[str, ...]
        Of the data set.
    u_shaped : bool
        Whether labels and top stay with the clients.
    added : Mapping[str, nn.Module]
        What the client rule adds to every client's part.
    autocast : torch.dtype | None
        The server part's autocast dtype; None = it computes in the dtype of the weights.
    observers : Observers
        What else is measured on the test images.
    given_digest : str
        Digest of all initial weights, if they are those of an object, which no file keeps.
    """

    model: SplitModel
    spec: InputSpec
    wire: Wire
    pretrained: bool
    test: Images
    class_names: tuple[str, ...]
    u_shaped: bool
    added: Mapping[str, nn.Module] = field(default_factory=dict)
    autocast: torch.dtype | None = None
    observers: Observers = NOBODY
    given_digest: str = ""

    @property
    def client_part(self) -> nn.Module:
        """What clients hold if the model is split: the bottom, if U-shaped also the top."""
        parts = [self.model.bottom, *([self.model.top] if self.u_shaped else [])]
        if len(parts) == 1 and not self.added:
            return self.model.bottom
        return hold_parts(*parts, added=self.added)

    @property
    def server_part(self) -> nn.Module:
        """What the server holds: trunk and top, in the U-shaped topology the trunk."""
        part = join_parts(self.model.trunk) if self.u_shaped else self.model.server_part()
        if self.autocast is not None:
            assert isinstance(part, Part)
            part.autocast = self.autocast
        return part

    def held_by_clients(self, *, split: bool) -> nn.Module:
        """Return what clients hold: their part, or the whole model if it is not split."""
        return self.client_part if split else join_parts(*self.model)

    def frozen_digest(self, *, split: bool) -> str:
        """Return the digest of what is frozen at a client (see `fedsplit.exchanged_state`)."""
        whole = self.held_by_clients(split=split)
        return frozen_digest(whole, (*self.unused_weights, *(f"{name}." for name in self.added)))

    @property
    def unused_weights(self) -> tuple[str, ...]:
        """The prefixes of weights that the model's output does not use."""
        return unused_weights_of(self.model.bottom)

    @property
    def whole(self) -> Callable[[Tensor], Tensor]:
        """The joined parts as one function from images to logits."""
        server_part = self.model.server_part()
        return lambda images: server_part(self.model.bottom(images))


def magnitude_bounds(prepared: Preparation, config: Config) -> dict[Kind, Magnitudes]:
    """Return how large what clients send may be.

    That follows from a batch of test images with the initial weights, protected by the run's
    defence, and from what clients send in the run.
    """
    channel = config.channel
    # Before the first step a batch norm passes on what it is given, but scales it in training.
    modes = (False, True) if len(prepared.test) > 1 else (False,)  # it cannot train on one image
    runs = [_initial_magnitudes(prepared, config, training=mode) for mode in modes]
    smashed, gradient = (
        {name: max(run[number][name] for run in runs) for name in runs[0][number]}
        for number in (0, 1)
    )
    found = {Kind.SMASHED_DATA: Magnitudes(smashed, channel.activation_factor)}
    if gradient:
        found[Kind.OUTPUT_GRADIENT] = GradientMagnitudes(gradient, channel.output_gradient_factor)
    return found


def _initial_magnitudes(
    prepared: Preparation, config: Config, *, training: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the magnitudes of smashed data, and of output gradients if any are sent.

    Nothing that the run uses is changed, such as running statistics and torch's own generator.
    """
    model, device = prepared.model, config.server_device
    count = min(max(config.batch_size, 2), len(prepared.test))
    images, labels = prepared.test.batch(torch.arange(count))
    draw = partial(generator, config.seed, "defence", "initial")
    with unchanged_generator(), torch.no_grad(), unchanged_buffers(*model):
        smashed = model.bottom.train(training)(images.to(device))
        sent = protected(load_defence(config.defence.name), smashed, draw)
        if prepared.wire.output is None or not prepared.wire.output_gradient:
            return magnitudes(sent), {}
        output = join_parts(model.trunk).train(training)(sent)
        top = join_parts(model.top)
        top.autocast = prepared.autocast  # as clients compute it
        gradient = input_gradient(top.train(training), output, labels.to(device))
    found = {name: value * count for name, value in magnitudes(gradient).items()}
    return magnitudes(sent), found


def prepare(config: Config, *, run: str = "", observers: Observers = NOBODY) -> Preparation:
    """Check the config, and load the model and the test images.

    Parameters
    ----------
    config : Config
        The run's configuration.
    run : str
        Identifies the run, see `resolve`.
    observers : Observers
        What watches it.

    Raises
    ------
    FedSplitError
        As `check`, and if weights cannot be loaded, or a metric has the key of the strategy's own.
    """
    found, spec, class_names = check(config, run=run)
    config = Config.load(config, {"device": config.server_device})
    strategy = strategy_class(config.strategy)
    observers.check_apart(strategy.metrics())
    model = initial_model(config, found, num_labels=len(class_names))
    rule = strategy.client_rule
    wire = make_wire(
        config,
        found,
        num_labels=len(class_names),
        spec=spec,
        cut_gradient=rule.uses_cut_gradient and trains(model.bottom),
    )
    prepared = Preparation(
        model=model,
        spec=spec,
        wire=wire,
        pretrained=config.model.pretrained and found.source.has_weights,
        test=load_test(config, spec),
        class_names=class_names,
        u_shaped=config.split.u_shaped,
        added=_added(rule, config, wire),
        autocast=autocast_of(config),
        observers=observers,
        given_digest=_digest(model) if is_object(config.model.name) else "",
    )
    tell_lost_colours(load_images(config.data, look=False), spec)
    if prepared.pretrained:
        tell_other_classes(found.name, found.source.config, class_names)
    if (config.model.dtype, config.model.autocast) != ("float32", "none"):
        client_top = [model.top] if prepared.u_shaped else []
        check_arithmetic([model.bottom, prepared.server_part, *client_top], spec, config)
    return prepared


def _digest(model: SplitModel) -> str:
    """Return the digest of all weights of a model."""
    whole: dict[str, Tensor] = {}
    for part in model:
        whole |= part.state_dict()
    return tensors_digest(whole)


def _added(rule: type[ClientRule], config: Config, wire: Wire) -> dict[str, nn.Module]:
    if not rule.splits:
        return {}
    return added_modules(rule, config, smashed=wire.smashed, num_labels=wire.num_labels)
