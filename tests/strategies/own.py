"""Aggregators of a user's own, right ones and wrong ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg

from fedsplit.arrays import to_record, to_state


class Slowing(FedAvg):
    """Moves ever less far from the weights that it has returned before: keeps a count."""

    def __init__(self, step: float = 1.0, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.step = step
        self.num_rounds = 0
        self.history: list[float] = []
        self.before: ArrayRecord | None = None

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert arrays is not None
        self.num_rounds += 1
        share = self.step / self.num_rounds
        self.history.append(share)
        if self.before is not None:
            old, new = to_state(self.before), to_state(arrays)
            arrays = to_record({name: old[name].lerp(new[name], share) for name in new})
        self.before = arrays
        return arrays, metrics


class Strict(FedAvg):
    """Takes no arguments of FedAvg's."""

    def __init__(self, *, beta: float) -> None:
        super().__init__()
        self.beta = beta


class Halves(FedAvg):
    """Samples clients itself."""

    def __init__(self) -> None:
        super().__init__(fraction_train=0.5)


class Broken(FedAvg):
    def __init__(self) -> None:
        raise OSError("no such table")


class Failing(FedAvg):
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        raise ZeroDivisionError("by zero")


class Renaming(FedAvg):
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, _ = super().aggregate_train(server_round, replies)
        assert arrays is not None
        return ArrayRecord({f"my.{name}": array for name, array in arrays.items()}), None


class WithoutMetrics(FedAvg):
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return super().aggregate_train(server_round, replies)[0], None

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        return None


class NoAggregator:
    pass


an_instance = FedAvg()
