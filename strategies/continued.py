"""A strategy that continues a run: Flower's loop counts from 1, but the run does not."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy


class Continued(Strategy):
    """Pass every call on, with the round number of the run.

    Parameters
    ----------
    strategy : Strategy
        The run's strategy, with the state after the finished rounds.
    rounds_done : int
        How many those are.
    """

    def __init__(self, strategy: Strategy, rounds_done: int) -> None:
        self._strategy = strategy
        self._rounds_done = rounds_done

    def summary(self) -> None:
        """Log the strategy."""
        self._strategy.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the run's next round of training."""
        return self._strategy.configure_train(
            self._rounds_done + server_round, arrays, config, grid
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the run's round of training."""
        return self._strategy.aggregate_train(self._rounds_done + server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the run's next round of evaluation."""
        return self._strategy.configure_evaluate(
            self._rounds_done + server_round, arrays, config, grid
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate the run's round of evaluation."""
        return self._strategy.aggregate_evaluate(self._rounds_done + server_round, replies)
