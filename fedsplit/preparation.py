"""What a run needs before it starts, checked in the order in which it is cheap to check."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from fedsplit.algorithms import strategy_class
from fedsplit.arithmetic import check_arithmetic
from fedsplit.batch_check import check_batch_size, check_single_images
from fedsplit.config import Config
from fedsplit.data.catalog import image_size, load_images
from fedsplit.data.loader import Images
from fedsplit.data.partition import class_counts
from fedsplit.data.run import reading
from fedsplit.data.shards import load_test, validation_size
from fedsplit.errors import ConfigError
from fedsplit.exchanged import frozen_digest, trains
from fedsplit.initial import initial_model
from fedsplit.input_spec import InputSpec
from fedsplit.models.resolved import ResolvedModel, resolve
from fedsplit.models.split import SplitModel, hold_parts, join_parts
from fedsplit.models.stages import Part
from fedsplit.models.trainable import load_peft, unused_weights_of
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.sinks import check_sinks
from fedsplit.split.client_rules import ClientRule
from fedsplit.split.codecs import load_codec
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.defences import load_defence
from fedsplit.split.wire import Wire
from fedsplit.threads import available_cores
from fedsplit.wiring import added_modules, make_wire
from strategies.aggregation import make_aggregator
from strategies.clients import sample_size

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preparation:
    """A checked run, with its model and test images in memory.

    Attributes
    ----------
    model : SplitModel
        With its initial weights, on the run's device.
    spec : InputSpec
        What images the model takes.
    wire : Wire
        What crosses the channel, if the model is split.
    test : Images
        The held-out images.
    class_names : tuple[str, ...]
        Of the data set.
    u_shaped : bool
        Whether labels and top stay with the clients.
    added : Mapping[str, nn.Module]
        What the client rule adds to every client's part.
    autocast : torch.dtype | None
        In which dtype the split server computes what allows it; None = that of the weights.
    """

    model: SplitModel
    spec: InputSpec
    wire: Wire
    test: Images
    class_names: tuple[str, ...]

    u_shaped: bool

    added: Mapping[str, nn.Module] = field(default_factory=dict)

    autocast: torch.dtype | None = None

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
        """Return the digest of what is frozen at a client (see `fedsplit.exchanged`)."""
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


def check(config: Config, *, run: str = "") -> tuple[InputSpec, tuple[str, ...]]:
    """Refuse what cannot run, without loading weights.

    Parameters
    ----------
    config : Config
        The run's configuration.
    run : str
        Identifies the run, see `resolve`.

    Raises
    ------
    FedSplitError
        The first thing that is wrong: strategy, aggregator, device, run directory, model, cut or
        data.
    """
    strategy_class(config.strategy)
    load_codec(config.codec.uplink, key="codec.uplink")
    load_codec(config.codec.downlink, key="codec.downlink")
    load_defence(config.defence.name)
    make_aggregator(config.aggregation)
    _check_device(config.device)
    check_sinks(config)
    RunDirectory.check_free(config)
    model = resolve(config.model.name, run=run)
    spec = model.input_spec(images=partial(image_size, config.data))
    class_names = load_images(config.data).class_names
    trunk = model.empty_part("trunk", config.split.points, num_labels=len(class_names))
    if config.split.u_shaped and trunk.start == trunk.end:
        raise ConfigError(
            f"split.cut-layer = {config.split.cut_layer} leaves no stage to the server in the "
            f"u-shaped topology. Cut earlier: 1 to {trunk.end - 1}."
        )
    _check_strategy(config)
    if config.split.trainable == "lora":
        load_peft()
    _warn_of_dropout(config, model)
    return spec, class_names


def check_shards(config: Config) -> None:
    """Refuse a data set that cannot be divided as asked, or batches that do not suit the shards.

    Raises
    ------
    FedSplitError
        What is wrong with the shards of ``num-clients`` clients.
    """
    with reading(config.data):
        images = load_images(config.data)
        counts = class_counts(images, config.data, num_clients=config.num_clients, seed=config.seed)
        fraction = config.data.validation_fraction
        sizes = [sum(row) - validation_size(sum(row), fraction) for row in counts]
        model, num_labels = resolve(config.model.name), len(images.class_names)
        check_batches(
            config,
            sizes,
            lambda: (
                model.parts_skeleton(config.split.points, num_labels),
                model.input_spec(images=partial(image_size, config.data)),
            ),
        )


def check_batches(
    config: Config,
    shard_sizes: Sequence[int],
    model: Callable[[], tuple[SplitModel, InputSpec]],
) -> None:
    """Refuse a batch size that does not suit the shards, or steps that the model cannot train on.

    Parameters
    ----------
    config : Config
        The run's configuration.
    shard_sizes : Sequence[int]
        Training images of each client.
    model : Callable[[], tuple[SplitModel, InputSpec]]
        Returns the model, whose weights do not matter, and the images that it takes.

    Raises
    ------
    ConfigError
        Names the client.
    """
    strategy = strategy_class(config.strategy)
    check_batch_size(config.batch_size, shard_sizes)
    rule = strategy.update_rule
    concatenates = rule is not None and issubclass(rule, Concatenated)
    check_single_images(
        model,
        shard_sizes,
        config,
        pooled=strategy.pooled,
        together=sample_size(config.fraction_train, len(shard_sizes)) if concatenates else 1,
    )


def clients_at_once(config: Config) -> int:
    """Return how many clients an engine must have at work at the same time.

    This is the number of participants of a round, if they wait for each other in every step; else
    `max-concurrent-clients`, or one for each core.
    """
    if strategy_class(config.strategy).synchronous:
        return sample_size(config.fraction_train, config.num_clients)
    return min(config.num_clients, config.max_concurrent_clients or available_cores())


def prepare(config: Config, *, run: str = "") -> Preparation:
    """Check the config, and load the model and the test images.

    Parameters
    ----------
    config : Config
        The run's configuration.
    run : str
        Identifies the run, see `resolve`.

    Raises
    ------
    FedSplitError
        As `check`, and if weights cannot be loaded.
    """
    spec, class_names = check(config, run=run)
    model = initial_model(config, num_labels=len(class_names), run=run)
    rule = strategy_class(config.strategy).client_rule
    wire = make_wire(
        config,
        num_labels=len(class_names),
        spec=spec,
        cut_gradient=rule.uses_cut_gradient and trains(model.bottom),
        run=run,
    )
    prepared = Preparation(
        model=model,
        spec=spec,
        wire=wire,
        test=load_test(config, spec),
        class_names=class_names,
        u_shaped=config.split.u_shaped,
        added=_added(rule, config, wire),
        autocast=None if config.model.autocast == "none" else getattr(torch, config.model.autocast),
    )
    if (config.model.dtype, config.model.autocast) != ("float32", "none"):
        client_top = [model.top] if prepared.u_shaped else []
        check_arithmetic([model.bottom, prepared.server_part, *client_top], spec, config)
    return prepared


def _added(rule: type[ClientRule], config: Config, wire: Wire) -> dict[str, nn.Module]:
    if not rule.splits:
        return {}
    return added_modules(rule, config, smashed=wire.smashed, num_labels=wire.num_labels)


def _check_strategy(config: Config) -> None:
    """Refuse keys that the strategy would have to ignore."""
    strategy = strategy_class(config.strategy)
    if not strategy.aggregates and config.aggregation.name != "FedAvg":
        raise ConfigError(
            f"aggregation.name = '{config.aggregation.name}' has nothing to aggregate with "
            f"strategy = '{config.strategy}'. Leave it at 'FedAvg', or choose another strategy."
        )
    if strategy.update_rule is None and config.split.u_shaped:
        raise ConfigError(
            f"split.topology = 'u-shaped' says nothing with strategy = '{config.strategy}', which "
            "does not split. Leave it at 'vanilla', or choose a strategy that splits."
        )
    if strategy.update_rule is None and config.model.autocast != "none":
        raise ConfigError(
            f"model.autocast = '{config.model.autocast}' is for the split server, and strategy = "
            f"'{config.strategy}' has none. Leave it at 'none', or set model.dtype."
        )
    for key, value in (
        ("codec.uplink", config.codec.uplink),
        ("codec.downlink", config.codec.downlink),
        ("defence.name", config.defence.name),
    ):
        if strategy.update_rule is None and value != "none":
            raise ConfigError(
                f"{key} = '{value}' has no effect with strategy = '{config.strategy}', which does "
                "not split. Leave it at 'none', or choose a strategy that splits."
            )


def _warn_of_dropout(config: Config, model: ResolvedModel) -> None:
    found = model.dropout_probabilities()
    if config.split.trainable == "lora" and config.lora.dropout:
        _logger.warning(
            "lora.dropout = %g draws from torch's global generator: this run will not repeat "
            "exactly. Set it to 0 if it has to.",
            config.lora.dropout,
        )
    if found:
        _logger.warning(
            "The model '%s' has dropout (%s), which draws from torch's global generator: this run "
            "will not repeat exactly. Set these to 0 %s if it has to.",
            model.name,
            ", ".join(f"{key} = {value:g}" for key, value in found.items()),
            _place_of_config(model),
        )


def _place_of_config(model: ResolvedModel) -> str:
    source = model.source
    if source.directory is None or source.made_by_function:
        return "where the model is made"
    return "in the config.json of a local copy" if source.from_hub else "in its config.json"


def _check_device(device: str) -> None:
    try:
        if torch.zeros(1, device=device).is_meta:
            raise RuntimeError("it keeps no numbers")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device = '{device}' cannot be used here ({reason}). Use 'cpu', or a device that "
            "this machine's torch offers."
        ) from None
