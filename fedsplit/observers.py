"""What watches a run from outside: callbacks, and metrics of the test set. See `simulate`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedsplit.errors import ConfigError, RunError
from fedsplit.fields import Field, Metric, declare

Callback = Callable[[dict[str, Any]], object]
"""Is called after each round with a copy of its row, as in rounds.jsonl."""
Measure = Callable[[Tensor, Tensor], float | Tensor]
"""Returns a number of the test set: of logits [images, classes] and labels [images]."""


class StopRun(Exception):  # noqa: N818 - it is no error, as StopIteration
    """Raised by a callback, it ends the run after this round, as patience does.

    What is raised with it, ``StopRun("why")``, is logged.
    """


@dataclass(frozen=True)
class Observers:
    """Callbacks and metrics of one run.

    Attributes
    ----------
    callbacks : Sequence[Callback]
        Called in this order after each round.
    metrics : Mapping[Metric, Measure]
        What is measured on the test set beside loss and accuracy, and how.

    Raises
    ------
    ConfigError
        If one of them cannot be called, or two metrics have one key.
    """

    callbacks: Sequence[Callback] = ()
    metrics: Mapping[Metric, Measure] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """The arguments of `simulate` that were given, and what they hold is called."""
        names = {
            "callbacks": ", ".join(map(_name, self.callbacks)),
            "metrics": ", ".join(metric.key for metric in self.metrics),
        }
        return {argument: name for argument, name in names.items() if name}

    def __post_init__(self) -> None:
        """Refuse what would fail in the first round."""
        if not isinstance(self.callbacks, list | tuple):
            raise ConfigError(
                f"callbacks = {self.callbacks!r:.100} is no list. Give a list of functions of a "
                "round's row: callbacks=[print]."
            )
        if not isinstance(self.metrics, Mapping):
            raise ConfigError(
                f"metrics = {self.metrics!r:.100} is no mapping. Give each metric with its "
                'function of logits and labels: {Metric("top3", "top-3 accuracy"): top3}.'
            )
        declare(self.metrics)
        functions = [("callbacks", each) for each in self.callbacks]
        functions += [(f"metrics: {metric.key}", each) for metric, each in self.metrics.items()]
        for place, function in functions:
            if not callable(function):
                raise ConfigError(f"{place}: {function!r:.100} cannot be called. Give a function.")

    def check_apart(self, declared: Sequence[Field]) -> None:
        """Refuse a metric with the key of one that the run's strategy declares itself.

        Raises
        ------
        ConfigError
            Names the key.
        """
        own = {metric.key for metric in declared}
        for metric in self.metrics:
            if metric.key in own:
                raise ConfigError(
                    f"metrics: '{metric.key}' is declared by the strategy, too, and one of the two "
                    "would be lost. Choose another key."
                )

    def tell(self, row: Mapping[str, Any]) -> Exception | None:
        """Call all callbacks; return what the first of those that fail has raised."""
        raised: Exception | None = None
        for callback in self.callbacks:
            try:
                callback(copy.deepcopy(dict(row)))
            except StopRun as stop:
                raised = raised or stop
            except Exception as error:  # a callback is the user's own code
                raised = raised or _failed(callback, row["round"], error)
        return raised

    def measured(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the value of each metric by its key.

        Raises
        ------
        RunError
            If a function fails, or returns no finite number.
        """
        return {
            metric.key: _number(metric, function, logits, labels)
            for metric, function in self.metrics.items()
        }


NOBODY = Observers()


def _name(callback: Callback) -> str:
    return str(getattr(callback, "__name__", type(callback).__name__))


def _failed(callback: Callback, server_round: int, error: Exception) -> RunError:
    failure = RunError(
        f"The callback {_name(callback)} failed after round {server_round} "
        f"({type(error).__name__}: {error}). Correct it."
    )
    failure.__cause__ = error
    return failure


def _number(metric: Metric, function: Measure, logits: Tensor, labels: Tensor) -> float:
    try:
        value = function(logits.clone(), labels.clone())  # one may change them, the next reads them
        number = float(value)
    except Exception as error:  # the user's own code
        raise RunError(
            f"The metric '{metric.key}' cannot be measured ({type(error).__name__}: {error}). Its "
            f"function gets logits {list(logits.shape)} and labels {list(labels.shape)}, and must "
            "return one number."
        ) from error
    if not math.isfinite(number):
        raise RunError(
            f"The metric '{metric.key}' is {number}. Let its function return a finite number."
        )
    return number
