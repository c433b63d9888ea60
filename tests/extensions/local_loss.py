"""Local loss: clients learn from an auxiliary head of their own, and wait for no gradient.

Han et al., "Accelerating Federated Learning with Split Learning on Locally Generated Losses", ICML
workshop 2021. Every second batch also goes to the server, whose copy of the server part learns
from it; nothing but the batch's score comes back.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedsplit.boundary import Boundary
from fedsplit.fields import Metric
from fedsplit.split.client import SplitSession
from fedsplit.split.client_rules import ClientSide, SplitClient
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.local import BatchLoss
from fedsplit.split.steps import score
from strategies.base import FederatedStrategy


class AuxiliaryHead(nn.Module):
    """Mean over tokens, then a linear classifier: [B, N+1, D] -> [B, classes]."""

    def __init__(self, width: int, num_labels: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, num_labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.classifier(hidden.mean(dim=1))
        return logits


class LocalLossClient(SplitClient):
    """Step bottom and auxiliary head on the head's loss."""

    uses_cut_gradient = False
    sends_every_batch = False
    works_u_shaped = False
    metrics = (Metric("sent_batches", "batches sent", over_clients="sum", over_rounds="sum"),)
    every: int = 2

    def __init__(self, side: ClientSide, session: SplitSession) -> None:
        super().__init__(side, session)
        self._seen = self._sent = 0

    @classmethod
    def added_modules(cls, smashed: Boundary, num_labels: int) -> Mapping[str, nn.Module]:
        """Add the auxiliary head."""
        return {"auxiliary": AuxiliaryHead(smashed.tensors["hidden"].shape[-1], num_labels)}

    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        """Return the auxiliary head's loss; some batches also go to the server."""
        smashed = self.smashed(images)
        if self._seen % self.every == 0:
            with torch.no_grad():
                self.session.train_step(smashed, labels)
            self._sent += 1
        self._seen += 1
        return BatchLoss.of(score(self.side.added["auxiliary"](smashed), labels))

    def measured(self) -> Mapping[str, float]:
        """Return how many batches went to the server."""
        return {"sent_batches": self._sent}


class LocalLoss(FederatedStrategy):
    """Local loss with a server copy for each participant, averaged by n_k."""

    client_rule = LocalLossClient
    update_rule = PerParticipantCopies


class NeverSending(LocalLossClient):
    """h = infinity: no batch reaches the server."""

    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        """Return the auxiliary head's loss."""
        return BatchLoss.of(score(self.side.added["auxiliary"](self.smashed(images)), labels))


class AllLocal(LocalLoss):
    """Local loss with h = infinity."""

    client_rule = NeverSending
