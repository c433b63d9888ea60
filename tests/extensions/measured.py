"""A metric of each client: the mean norm of its smashed data."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedsplit.boundary import State, by_name
from fedsplit.fields import Metric
from fedsplit.split.client import SplitSession
from fedsplit.split.client_rules import ClientSide, SplitClient
from fedsplit.split.local import BatchLoss
from strategies.sflv1 import SFLV1

NORM = Metric("smashed_norm", "norm of smashed data", over_clients="mean", over_rounds="last")


class MeasuringClient(SplitClient):
    """Measure the norm of each example's smashed data while training."""

    metrics = (NORM,)

    def __init__(self, side: ClientSide, session: SplitSession) -> None:
        super().__init__(side, session)
        self._total, self._examples = 0.0, 0

    def smashed(self, images: Tensor) -> State:
        """Add the norms of a batch."""
        state = super().smashed(images)
        for tensor in by_name(state).values():
            self._total += float(tensor.detach().flatten(1).norm(dim=1).sum())
        self._examples += len(images)
        return state

    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        """Train as SFLV1 does."""
        return super().train_step(images, labels)

    def measured(self) -> Mapping[str, float]:
        """Return the mean over all examples of the round."""
        return {"smashed_norm": self._total / self._examples}


class Measured(SFLV1):
    """SFLV1 whose clients report the norm of their smashed data."""

    client_rule = MeasuringClient
