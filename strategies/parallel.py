"""Parallel split learning: Jeon & Kim, "Privacy-Sensitive Parallel Split Learning", ICOIN 2020."""

from __future__ import annotations

from fedsplit.split.client_rules import SplitClient
from fedsplit.split.concatenated import Concatenated
from strategies.base import FederatedStrategy


class Parallel(FederatedStrategy):
    """All participants train one server part, on their concatenated batches.

    In a round, all participants at the same time: each k receives the bottom W_b. At step t

    1. every participant with t < T_k sends the smashed data of a batch of B_k, with its labels;
    2. the server makes one update of W_s with the loss ``sum(B_k / B * L_k)``, where B is the sum
       of the B_k: each example has the same weight;
    3. each k receives the cut gradient of its own mean loss L_k, and takes one step on its W_b,k.

    Then ``W_b = sum(n_k / n * W_b,k)`` by the aggregator. W_s and its optimizer carry over to
    the next round. With one step in a round, SGD and FedAvg, a round is one step on the
    concatenated batch.
    """

    client_rule = SplitClient
    update_rule = Concatenated
    synchronous = True
