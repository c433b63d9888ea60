"""Any Flower strategy as the aggregator of what clients train, made from two config keys."""

from __future__ import annotations

import difflib
import inspect
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence

import flwr.serverapp.strategy as flower_strategies
from flwr.app import Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from fedsplit.config import AggregationConfig
from fedsplit.errors import ConfigError
from fedsplit.flower_internals import NodeInfo
from fedsplit.objects import is_object
from fedsplit.references import is_reference, load_reference
from strategies.grids import ForwardingGrid
from strategies.own_aggregator import OURS, adopt, run_copy

_CODE = {"train_metrics_aggr_fn", "evaluate_metrics_aggr_fn", "selection_rule"}
"""Arguments that are functions, which a config cannot hold."""


def make_aggregator(config: AggregationConfig) -> Strategy:
    """Return the Flower strategy of ``aggregation.name`` with ``aggregation.options``.

    Raises
    ------
    ConfigError
        If there is no such strategy, or it does not take these options.
    """
    if is_reference(config.name):
        return _make_own(config)
    names = sorted(
        name
        for name, kind in vars(flower_strategies).items()
        if inspect.isclass(kind) and issubclass(kind, FedAvg)
        if not name.startswith("FedXgb")  # these combine trees, not weights
    )
    if config.name not in names:
        close = difflib.get_close_matches(config.name, names, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(names)}."
        raise ConfigError(
            f"aggregation.name = '{config.name}' is not a Flower strategy; {hint} Your own class "
            "is package.module:Class."
        )
    kind = getattr(flower_strategies, config.name)
    parameters = inspect.signature(kind).parameters
    options = _parse(config.options)
    _check(config, options, [p for n, p in parameters.items() if n not in OURS.keys() | _CODE])
    try:
        strategy = kind(**{k: v for k, v in OURS.items() if k in parameters}, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"aggregation.options = '{config.options}': {error}") from None
    assert isinstance(strategy, Strategy)
    return strategy


def _make_own(config: AggregationConfig) -> Strategy:
    """Return an aggregator of the user's own class, or a copy of the instance that was given."""
    found = load_reference(config.name, key="aggregation.name")
    if isinstance(found, Strategy) and is_object(config.name):
        return run_copy(found)
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise ConfigError(
            f"aggregation.name = '{config.name}' is not a class derived from "
            "flwr.serverapp.strategy.Strategy. Name one, such as a subclass of FedAvg."
        )
    if hasattr(found, "client_rule"):
        raise ConfigError(
            f"aggregation.name = '{config.name}' is a strategy of fedsplit's kind, which is an "
            "algorithm and no aggregator. Name it as strategy."
        )
    options = _parse(config.options)
    takes = inspect.signature(found).parameters
    fixed = {name: value for name, value in OURS.items() if name in takes and name not in options}
    try:
        strategy = found(**fixed, **options)
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(
            f"aggregation.name = '{config.name}' cannot be made with aggregation.options = "
            f"'{config.options}' ({type(error).__name__}: {error}). It is called with these as "
            "keyword arguments."
        ) from error
    adopt(strategy)
    return strategy


def _parse(options: str) -> dict[str, object]:
    try:
        table = tomllib.loads(f"options = {{ {options} }}")["options"]
    except ValueError as error:
        raise ConfigError(
            f"aggregation.options = '{options}' cannot be read ({error}). Write it as "
            "'eta = 0.1, tau = 0.001'."
        ) from None
    assert isinstance(table, dict)
    parsed: dict[str, object] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in parsed:
            raise ConfigError(
                f"aggregation.options = '{options}' has {name} in two spellings. Keep one of them."
            )
        parsed[name] = value
    return parsed


def _check(
    config: AggregationConfig, options: Mapping[str, object], takes: Sequence[inspect.Parameter]
) -> None:
    """Refuse options that are unknown, missing, or of the wrong type."""
    names = {parameter.name for parameter in takes}
    unknown = sorted(set(options) - names)
    if unknown:
        raise ConfigError(
            f"aggregation.options has {', '.join(unknown)}, which {config.name} does not take; "
            + (f"it takes {', '.join(sorted(names))}." if names else "it takes no options.")
        )
    for parameter in takes:
        if parameter.name in options:
            fault = _fault(options[parameter.name], parameter.annotation)
            if fault:
                raise ConfigError(
                    f"aggregation.options has {parameter.name} = {options[parameter.name]!r}; for "
                    f"{config.name} it must be {fault}."
                )
        elif parameter.default is parameter.empty:
            example = f"{parameter.name.replace('_', '-')} = 0.1"
            raise ConfigError(
                f"aggregation.options = '{config.options}' lacks {parameter.name}, which "
                f"{config.name} needs. Add it, such as '{example}'."
            )


def _fault(value: object, annotation: object) -> str | None:
    """Return what an option must be, or None if it is valid; no option of Flower may be below 0."""
    whole = annotation in (int, "int")
    if not whole and annotation not in (float, "float"):
        return None
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return "a whole number" if whole else "a number"
    if value < 0:
        return "at least 0"
    return None if value < 2**63 else "a finite number below 2^63"  # nan is not


class SampledGrid(ForwardingGrid):
    """A grid on which only this round's participants exist.

    It lets a Flower strategy configure a round for nodes that fedsplit has sampled. It cannot
    send.
    """

    def __init__(self, grid: Grid, node_ids: Collection[int]) -> None:
        super().__init__(grid)
        self._node_ids = list(node_ids)

    def get_node_ids(self) -> Iterable[int]:
        """Return the participants' node ids."""
        return self._node_ids

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the participants' node information."""
        return (node for node in self._grid.get_nodes() if node.node_id in self._node_ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not supported: a sampled grid cannot send."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not supported: a sampled grid cannot send."""
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Not supported: a sampled grid cannot send."""
        raise NotImplementedError
