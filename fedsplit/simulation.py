"""`simulate`: a run in this process, of a config and of Python objects."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, overload

import flwr.serverapp.strategy as flower_strategies
from flwr.serverapp.strategy import Strategy

from fedsplit import client_model
from fedsplit.absolute_paths import with_absolute_paths
from fedsplit.config import Config
from fedsplit.data.objects import DataObject, base_of, named_splits
from fedsplit.errors import ConfigError
from fedsplit.fields import Metric
from fedsplit.inprocess import run_in_process
from fedsplit.models.given import GivenModel, ModelObject
from fedsplit.objects import Given, arguments_of, holding, is_object, object_name
from fedsplit.observers import Callback, Measure, Observers
from fedsplit.references import leads_to, reference_to
from fedsplit.results.result import Result
from fedsplit.resume import continued, without_place
from strategies import STRATEGIES
from strategies.base import FederatedStrategy
from strategies.own_aggregator import options_of

ConfigLike: TypeAlias = Config | Mapping[str, object] | str | Path


@overload
def simulate(
    config: ConfigLike | None = None,
    *,
    resume: str | Path | None = None,
    data: DataObject | None = None,
    model: ModelObject | None = None,
    strategy: str | type[FederatedStrategy] | None = None,
    aggregator: Strategy | type[Strategy] | None = None,
    callbacks: Sequence[Callback] = (),
    metrics: Mapping[Metric, Measure] | None = None,
    verbose: bool = True,
    **overrides: object,
) -> Result: ...


# For all that a type checker knows, `**{"split.cut-layer": 2}` may hold any of the names above.
@overload
def simulate(config: Any = None, **overrides: Any) -> Result: ...  # noqa: ANN401


def simulate(  # noqa: PLR0913 - all but the first by keyword
    config: ConfigLike | None = None,
    *,
    resume: str | Path | None = None,
    data: DataObject | None = None,
    model: ModelObject | None = None,
    strategy: str | type[FederatedStrategy] | None = None,
    aggregator: Strategy | type[Strategy] | None = None,
    callbacks: Sequence[Callback] = (),
    metrics: Mapping[Metric, Measure] | None = None,
    verbose: bool = True,
    **overrides: object,
) -> Result:
    """Run a config in this process.

    Runs in several threads of a process take turns: torch's number of threads and its global
    generator, which models are drawn from, exist once in a process.

    Parameters
    ----------
    config : Config | Mapping[str, object] | str | Path, optional
        A config, its keys as a mapping, or the path of a TOML file. By default that of the run
        that continues, or that of `Config`.
    resume : str | Path, optional
        The directory of a run that continues after its last checkpoint. Give the objects again
        with which it began.
    data : datasets.Dataset | torch.utils.data.Dataset | pair or mapping of them, optional
        The images, in place of ``data.name``: all splits by name, a pair (train, test), or
        training images, of which a sixth is held out to test. A torch data set has (image, label)
        pairs; images are Pillow's, or tensors [C, H, W] of uint8 or of floats from 0 to 1.
    model : nn.Module | SplitModel | tuple[nn.Module, nn.Module, nn.Module], optional
        The model, in place of ``model.name``: one of a registered family, or a bottom, a trunk and
        a top. The run begins with its weights, and trains a copy.
    strategy : str | type[FederatedStrategy], optional
        The algorithm: the name that the key ``strategy`` takes, or a class.
    aggregator : Strategy | type[Strategy], optional
        The Flower strategy that combines the clients' parts, in place of ``aggregation.name``: a
        class, or an instance, of which the run takes a copy.
    callbacks : Sequence[Callable[[dict[str, Any]], object]]
        Functions that are called after each round with its row. `StopRun` ends the run.
    metrics : Mapping[Metric, Callable[[Tensor, Tensor], float]], optional
        What else to measure on the test set after each round, of logits [images, classes] and
        labels [images]. With strategies whose clients keep a bottom, the mean over the clients.
    verbose : bool
        Show the run's progress as the key ``console`` says; if False, only warnings.
    **overrides : object
        Keys that differ, dotted (``**{"split.cut-layer": 2}``) or underscored
        (``split_cut_layer=2``).

    Returns
    -------
    Result
        Rounds, summary, final model and run directory.

    Raises
    ------
    FedSplitError
        If the config or an object is wrong, or the run cannot be finished, or cannot continue.

    Examples
    --------
    >>> from fedsplit import simulate
    >>> result = simulate({"strategy": "sflv1"}, num_server_rounds=5)  # doctest: +SKIP
    >>> result.summary["final_accuracy"]  # doctest: +SKIP
    >>> simulate(resume=result.run_dir, num_server_rounds=10)  # doctest: +SKIP
    """
    observers = Observers(callbacks, {} if metrics is None else metrics)
    given = [
        *_given_data(data),
        *_given_model(model),
        *_given_class("strategy", strategy, FederatedStrategy),
        *_given_class("aggregation.name", aggregator, Strategy),
    ]
    if isinstance(aggregator, Strategy) and config is not None and resume is None:
        _check_options(Config.load(config))
    if not verbose:
        overrides = {**overrides, "console": "quiet"}
    changes = _with_objects(overrides, given)
    arguments = [*arguments_of({each.key: each.name for each in given}), *observers.names]
    asked = _config(config, resume, changes, arguments)
    _check_keys(asked, given)
    outcome = run_in_process(asked, observers=observers, around=_in_this_run(given))
    return Result(outcome.rounds, outcome.summary, outcome.model, outcome.run_directory.path)


def _config(
    config: ConfigLike | None,
    resume: str | Path | None,
    overrides: Mapping[str, object],
    given: Collection[str],
) -> Config:
    if resume is None:
        asked = Config.load({} if config is None else config, overrides)
        return with_absolute_paths(asked)  # or it could only continue from here
    if config is not None:
        overrides = {**without_place(Config.load(config, overrides))}
    return continued(resume, overrides, given=given)


def _given_data(data: object) -> Iterator[Given]:
    if data is not None:
        splits = named_splits(data)
        first = splits.get("train", next(iter(splits.values()), None))
        yield Given("data.name", object_name(type(base_of(first))), data)


def _given_model(model: object) -> Iterator[Given]:
    if model is not None:
        found = GivenModel(model)
        yield Given("model.name", found.name, found)


def _given_class(key: str, value: object, kind: type) -> Iterator[Given]:
    """Yield a class or an instance under its name; a class of a module has one of its own."""
    if value is None or (isinstance(value, str) and key == "strategy"):
        name: object = value
    elif isinstance(value, type) and issubclass(value, kind):
        name = _name_of(value, key)
    elif isinstance(value, kind) and kind is Strategy and not isinstance(value, FederatedStrategy):
        name = object_name(type(value))
    else:
        wanted = "class" if kind is FederatedStrategy else "class or an instance of one"
        argument = {"aggregation.name": "aggregator"}.get(key, key)
        raise ConfigError(
            f"{argument} = {value!r:.200} is no {wanted} derived from "
            f"{kind.__module__}.{kind.__qualname__}."
        )
    if name is not None:
        yield Given(key, str(name), value)


def _name_of(kind: type, key: str) -> str:
    """Return the shortest name of a class: a built-in one, package.module:name, or object:Name."""
    builtin = STRATEGIES if key == "strategy" else vars(flower_strategies)
    for name, known in builtin.items():
        if known is kind:
            return str(name)
    return reference_to(kind) if leads_to(kind) else object_name(kind)


def _with_objects(overrides: Mapping[str, object], given: Sequence[Given]) -> dict[str, object]:
    """Return the overrides with the names of the objects."""
    found = dict(overrides)
    for each in given:
        settings = {each.key: each.name}
        if isinstance(each.value, Strategy):
            settings["aggregation.options"] = options_of(each.value)
        for key in settings:
            for twice in {key, key.replace(".", "_")} & set(found):
                raise ConfigError(
                    f"{twice} = {found[twice]!r} was given beside an object that decides the same. "
                    "Give one of them."
                )
        found |= settings
    return found


def _check_options(config: Config) -> None:
    """Refuse options in a config beside an instance, which has its own."""
    if config.aggregation.options:
        raise ConfigError(
            f"aggregation.options = '{config.aggregation.options}' has no effect on an instance. "
            "Give the class as aggregator=, or leave the options out."
        )


def _check_keys(config: Config, given: Sequence[Given]) -> None:
    """Refuse keys that have no effect on an object."""
    if not any(each.key == "model.name" for each in given):
        return
    if config.model.image_size:
        raise ConfigError(
            f"model.image-size = {config.model.image_size} has no effect on a module. Leave it at "
            "0, and give a module for images of that size; or save it by save_pretrained, and name "
            "its folder as model.name."
        )
    if not config.model.pretrained:
        raise ConfigError(
            "model.pretrained = false has no effect on a module, whose weights are the run's first "
            "ones. Leave it at true, and draw the module's weights before."
        )


@contextmanager
def _in_this_run(given: Sequence[Given]) -> Iterator[None]:
    """Let the run find its objects, and keep none of them afterwards."""
    objects = [each for each in given if is_object(each.name)]
    try:
        with holding(objects):
            yield
    finally:
        for each in objects:
            if isinstance(each.value, GivenModel):
                each.value.release()
                client_model.forget(each.value)
