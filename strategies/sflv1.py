"""SplitFed V1 (Thapa et al., "SplitFed: When Federated Learning Meets Split Learning", 2022)."""

from __future__ import annotations

from fedsplit.split.client_rules import SplitClient
from fedsplit.split.copies import PerParticipantCopies
from strategies.base import FederatedStrategy


class SFLV1(FederatedStrategy):
    """Each participant trains its own copy of the server part (the paper's algorithm 1).

    In a round, for every participant k at the same time:

    1. k receives the bottom W_b; the server makes a copy W_s,k of its part.
    2. For each batch, k sends smashed data and labels; the server takes one step on W_s,k and
       returns the cut gradient, with which k takes one step on its bottom.

    Then ``W_b = sum(n_k / n * W_b,k)`` by the aggregator, and ``W_s = sum(n_k / n * W_s,k)``
    by the split server. With FedAvg as the aggregator this equals `Full`, weight for weight.
    """

    client_rule = SplitClient
    update_rule = PerParticipantCopies
