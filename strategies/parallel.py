"""Parallel split learning: Jeon & Kim, "Privacy-Sensitive Parallel Split Learning", ICOIN 2020."""

from __future__ import annotations

from fedsplit.split.client_rules import SplitClient
from fedsplit.split.concatenated import Concatenated
from strategies.base import FederatedStrategy


class Parallel(FederatedStrategy):
    """All participants train one server part, on their batches put together.

    In a round, all participants at the same time: each k takes the bottom W_b. At step t

    1. every participant with t < T_k sends the smashed data of a batch of B_k, with its labels;
    2. the server makes one update of W_s with the loss ``sum(B_k / B * L_k)``, B their sum, in
       which each example weighs the same;
    3. each k gets the cut gradient of its own mean loss L_k, and takes one step on its W_b,k.

    Then ``W_b = sum(n_k / n * W_b,k)`` by the aggregator. W_s and its optimizer go on as they are.
    With one step in a round, SGD and FedAvg, that is one step on the concatenated batch.
    """

    client_rule = SplitClient
    update_rule = Concatenated
    synchronous = True
