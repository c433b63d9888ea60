"""SplitFed V2 (Thapa et al., "SplitFed: When Federated Learning Meets Split Learning", 2022)."""

from __future__ import annotations

from fedsplit.split.client_rules import SplitClient
from fedsplit.split.in_turn import InTurn
from strategies.base import FederatedStrategy


class SFLV2(FederatedStrategy):
    """All participants train one server part, on one batch after another in a random order.

    In a round, all participants at the same time: each k receives the bottom W_b. At step t

    1. every participant with t < T_k sends the smashed data of a batch, with its labels;
    2. the server draws a new permutation of them. In that order it makes one update of W_s for
       each, and returns its cut gradient, with which it takes one step on its W_b,k.

    Then ``W_b = sum(n_k / n * W_b,k)`` by the aggregator. W_s and its optimizer carry over to
    the next round. The random order is that of the paper's text (section 3.4: "randomly ordered").
    Its authors' code takes all batches of one client before those of the next.
    """

    client_rule = SplitClient
    update_rule = InTurn
    synchronous = True
