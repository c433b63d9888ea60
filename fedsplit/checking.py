"""Checks of a run before it starts, the cheapest first; none of them loads weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fedsplit.algorithms import strategy_class
from fedsplit.batch_check import Trained, check_batch_size, check_single_images
from fedsplit.config import Config
from fedsplit.data.catalog import load_images
from fedsplit.data.partition import class_counts
from fedsplit.data.run import reading
from fedsplit.data.shards import validation_size
from fedsplit.data.trial import try_images
from fedsplit.devices import check_device
from fedsplit.errors import ConfigError, ModelError
from fedsplit.initial_model import model_of, spec_of
from fedsplit.input_spec import InputSpec
from fedsplit.models.boundaries import boundary
from fedsplit.models.resolved import ResolvedModel
from fedsplit.models.split import SplitModel, join_parts, stage_names
from fedsplit.models.trainable import load_peft
from fedsplit.participants import check_participants
from fedsplit.results.best import check_monitor
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.sinks import check_sinks
from fedsplit.split.codecs import load_codec
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.defences import load_defence
from fedsplit.wiring import added_modules
from strategies.aggregation import make_aggregator
from strategies.clients import sample_size
from strategies.robust import is_robust

_logger = logging.getLogger(__name__)


class Checked(NamedTuple):
    """What the checks of a run have found out.

    Attributes
    ----------
    model : ResolvedModel
        The model, without its weights.
    spec : InputSpec
        The images that it takes.
    class_names : tuple[str, ...]
        Of the data set.
    """

    model: ResolvedModel
    spec: InputSpec
    class_names: tuple[str, ...]


def check(config: Config, *, run: str = "") -> Checked:
    """Refuse a config that cannot run, without loading weights.

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
    if config.server.device:
        check_device(config.server.device, key="server.device")
    else:
        check_device(config.device)
    check_sinks(config)
    if not config.resume:
        RunDirectory.check_free(config)
    model = model_of(config, run=run)
    spec = spec_of(config, model)
    class_names = load_images(config.data).class_names
    _check_cut(config, model, len(class_names))
    trunk = model.empty_part("trunk", config.split.points, num_labels=len(class_names))
    if config.split.u_shaped and trunk.start == trunk.end:
        raise ConfigError(
            f"split.cut-layer = {config.split.cut_layer} leaves the server without a stage in the "
            f"u-shaped topology. Cut earlier: 1 to {trunk.end - 1}."
        )
    if model.source.made_by_function:
        parts = model.parts_skeleton(config.split.points, len(class_names))
        boundary(parts.bottom, spec)
        _check_logits(model.name, parts, spec, len(class_names))
    _check_strategy(config)
    if config.split.trainable == "lora":
        load_peft()
    _warn_of_dropout(config, model)
    return Checked(model, spec, class_names)


def check_shards(config: Config) -> None:
    """Refuse a data set that cannot be divided as configured, or batches that do not fit shards.

    Raises
    ------
    FedSplitError
        What is wrong with the shards of ``num-clients`` clients.
    """
    check_participants(config, config.num_clients)
    with reading(config.data):
        images = load_images(config.data)
        counts = class_counts(images, config.data, num_clients=config.num_clients, seed=config.seed)
        fraction = config.data.validation_fraction
        sizes = [sum(row) - validation_size(sum(row), fraction) for row in counts]
        model = model_of(config)
        num_labels = len(images.class_names)
        check_batches(config, dict(enumerate(sizes)), lambda: _trained(config, model, num_labels))


def check_images(config: Config) -> int:
    """Refuse a data set one of whose first images cannot be decoded, and return how many were.

    Raises
    ------
    FedSplitError
        The error that a run would end with.
    """
    with reading(config.data):
        spec = spec_of(config, model_of(config))
        return try_images(load_images(config.data), spec)


def _trained(config: Config, model: ResolvedModel, num_labels: int) -> Trained:
    _check_cut(config, model, num_labels)
    parts = model.parts_skeleton(config.split.points, num_labels)
    spec = spec_of(config, model)
    rule = strategy_class(config.strategy).client_rule
    if not rule.splits:
        return Trained(parts, spec, {})
    smashed = boundary(parts.bottom, spec)
    added = added_modules(rule, config, smashed=smashed, num_labels=num_labels)
    return Trained(parts, spec, added)


def check_batches(
    config: Config,
    shard_sizes: Mapping[int, int],
    trained: Callable[[], Trained],
) -> None:
    """Refuse shards without a batch, or steps that the model cannot train on.

    Parameters
    ----------
    config : Config
        The run's configuration.
    shard_sizes : Mapping[int, int]
        Client -> its training images.
    trained : Callable[[], Trained]
        Returns what the run trains.

    Raises
    ------
    ConfigError
        Names the client.
    """
    strategy = strategy_class(config.strategy)
    pooled = {0: sum(shard_sizes.values())}
    check_batch_size(config, pooled if strategy.pooled else shard_sizes)
    rule = strategy.update_rule
    concatenates = rule is not None and issubclass(rule, Concatenated)
    check_single_images(
        trained,
        shard_sizes,
        config,
        pooled=strategy.pooled,
        together=sample_size(config.fraction_train, len(shard_sizes)) if concatenates else 1,
    )


def _check_cut(config: Config, model: ResolvedModel, num_labels: int) -> None:
    """Refuse a cut that the model does not have."""
    names = stage_names(model.skeleton(num_labels))
    cut, top, last = config.split.cut_layer, config.split.top_layer, len(names) - 1
    listed = ", ".join(f"{index} {name}" for index, name in enumerate(names))
    if cut > last:
        raise ConfigError(
            f"split.cut-layer = {cut} is not a cut of the model '{model.name}'. Set it to 1 to "
            f"{last}: the number of stages at the client. The stages are: {listed}."
        )
    if top and not cut <= top <= last:
        raise ConfigError(
            f"split.top-layer = {top} does not go with split.cut-layer = {cut} and the model "
            f"'{model.name}'. Set it to {cut} to {last}: the number of stages before the top. The "
            f"stages are: {listed}."
        )


def _check_strategy(config: Config) -> None:
    """Refuse keys that have no effect with the strategy, or wait for scores that nobody makes."""
    strategy = strategy_class(config.strategy)
    update_rule = strategy.update_rule
    copies = update_rule is not None and issubclass(update_rule, PerParticipantCopies)
    robust = copies and is_robust(make_aggregator(config.aggregation))  # combines the copies
    if not (strategy.aggregates or robust) and config.aggregation.name != "FedAvg":
        raise ConfigError(
            f"aggregation.name = '{config.aggregation.name}' has nothing to aggregate with "
            f"strategy = '{config.strategy}'. Leave it at 'FedAvg', or choose another strategy."
        )
    if strategy.update_rule is None and config.split.u_shaped:
        raise ConfigError(
            f"split.topology = 'u-shaped' has no effect with strategy = '{config.strategy}', which "
            "does not split. Leave it at 'vanilla', or choose a strategy that splits."
        )
    if config.split.u_shaped and not strategy.client_rule.works_u_shaped:
        raise ConfigError(
            f"split.topology = 'u-shaped' does not work with strategy = '{config.strategy}', whose "
            f"client rule {strategy.client_rule.__name__} sends labels to the server. Set it to "
            "'vanilla'."
        )
    if not (config.fraction_evaluate and config.data.validation_fraction):
        check_monitor(config, num_validation=0)
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


def _check_logits(name: str, parts: SplitModel, spec: InputSpec, num_labels: int) -> None:
    """Refuse a user's model that does not return a logit for each class."""
    logits = boundary(join_parts(*parts), spec)
    shapes = [tensor.shape for tensor in logits.tensors.values()]
    if not logits.bare or shapes != [(1, num_labels)]:
        found = ", ".join(str(["B", *shape[1:]]).replace("'", "") for shape in shapes)
        raise ModelError(
            f"The model '{name}' returns {found if logits.bare else 'a dict'}. Its top must "
            f"return the logits [B, {num_labels}], one for each class of the data set."
        )


def _warn_of_dropout(config: Config, model: ResolvedModel) -> None:
    found = model.dropout_probabilities()
    if config.split.trainable == "lora" and config.lora.dropout:
        _logger.warning(
            "lora.dropout = %g draws from torch's global generator: this run will not repeat "
            "exactly. Set it to 0 for a run that repeats exactly.",
            config.lora.dropout,
        )
    if found:
        _logger.warning(
            "The model '%s' has dropout (%s), which draws from torch's global generator: this run "
            "will not repeat exactly. Set these to 0 %s for a run that does.",
            model.name,
            ", ".join(f"{key} = {value:g}" for key, value in found.items()),
            _place_of_config(model),
        )


def _place_of_config(model: ResolvedModel) -> str:
    source = model.source
    if source.directory is None or source.made_by_function:
        return "where the model is made"
    return "in the config.json of a local copy" if source.from_hub else "in its config.json"
