"""FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks ...", AISTATS 2017."""

from __future__ import annotations

from fedsplit.split.client_rules import WholeModel
from strategies.base import FederatedStrategy


class Full(FederatedStrategy):
    """The unsplit baseline: every participant trains the whole model on its own shard.

    In a round each participant k receives the whole model W, trains it on its n_k examples, and
    returns it. Then ``W = sum(n_k / n * W_k)``. Clients, shards, batches and seeds are those of
    the split strategies, so they differ only in the split.
    """

    client_rule = WholeModel
    update_rule = None
