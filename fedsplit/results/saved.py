"""What a recorder keeps of a run that is to be continued, as plain JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from fedsplit.errors import OTHER_VERSION, CheckpointError, ConfigError
from fedsplit.fields import ENVIRONMENT_KEYS, ROW_KEYS, START_KEYS, Metric, declare
from fedsplit.results.strict_json import finite


@dataclass(frozen=True)
class Saved:
    """The state of a recorder between two rounds.

    Attributes
    ----------
    rows : Sequence[Mapping[str, Any]]
        The rows of the finished rounds.
    initial : Mapping[str, float | None]
        ``test_loss`` and ``test_accuracy`` before the first round.
    facts : Mapping[str, Any]
        What was known before the first round.
    elapsed_seconds : float
        From the start of the run to the moment of saving.
    metrics : Sequence[Metric]
        The declared metrics.
    """

    rows: Sequence[Mapping[str, Any]]
    initial: Mapping[str, float | None]
    facts: Mapping[str, Any]
    elapsed_seconds: float
    metrics: tuple[Metric, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values that share nothing with the recorder."""
        state = finite(
            {
                "rows": self.rows,
                "initial": self.initial,
                "facts": self.facts,
                "elapsed_seconds": self.elapsed_seconds,
                "metrics": [metric.description() for metric in self.metrics],
            }
        )
        assert isinstance(state, dict)
        return state

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """Return a checked state that shares nothing with the argument.

        Raises
        ------
        CheckpointError
            If it is not what `to_json` returns.
        """
        try:
            copy = finite(dict(state))
            assert isinstance(copy, dict)
            described = copy.pop("metrics")
            # Checkpoints of older versions do not say where they were made, nor of own images.
            if copy["facts"]:
                copy["facts"].setdefault("partitioner", None)
            if set(copy["facts"]) == set(START_KEYS) - set(ENVIRONMENT_KEYS):
                copy["facts"] |= dict.fromkeys(ENVIRONMENT_KEYS)
            saved = cls(**copy, metrics=declare(Metric(**values) for values in described))
            fault = next(saved._faults(), None)
        except (AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
            fault = f"{type(error).__name__}: {error}"
        if fault is not None:
            raise CheckpointError(
                f"The recorder cannot continue from this state ({fault}). {OTHER_VERSION}"
            )
        return saved

    def check_metrics(self, started: Sequence[Metric]) -> None:
        """Refuse a state of a run that declares other metrics.

        Raises
        ------
        ConfigError
            Names the metrics of both.
        """
        if tuple(started) != self.metrics:
            was, now = (
                ", ".join(metric.key for metric in metrics) or "none"
                for metrics in (self.metrics, started)
            )
            raise ConfigError(
                f"The saved run declares the metrics {was}; this run declares {now}, or describes "
                "them differently. Continue with the strategy and rules that began the run."
            )

    def _faults(self) -> Iterator[str]:
        keys = {*ROW_KEYS, *(metric.key for metric in self.metrics)}
        for number, row in enumerate(self.rows, start=1):
            if set(row) != keys:
                yield f"row {number} lacks or adds {', '.join(sorted(set(row) ^ keys))}"
            if row["round"] != number:
                yield f"row {number} is that of round {row['round']!r}"
        if set(self.facts) not in (set(), set(START_KEYS)):
            yield f"its facts have the keys {', '.join(sorted(self.facts))}"
        if set(self.initial) != {"test_loss", "test_accuracy"}:
            yield f"its initial scores have the keys {', '.join(sorted(self.initial))}"
        if not isinstance(self.elapsed_seconds, int | float) or self.elapsed_seconds < 0:
            yield f"its elapsed_seconds are {self.elapsed_seconds!r}"
