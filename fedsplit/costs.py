"""What a run costs each side, known before it starts: parameters, FLOPs, memory."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import compress

from torch import nn
from torch.optim import Optimizer

from fedsplit.config import Config
from fedsplit.data.loader import largest_batch
from fedsplit.preparation import Preparation
from fedsplit.results.flops import count_parameters, part_flops
from fedsplit.results.memory import part_memory, together
from fedsplit.split.steps import make_optimizer
from strategies import STRATEGIES
from strategies.clients import sample_size


def costs(
    config: Config, prepared: Preparation, *, split: bool, pooled: bool, num_clients: int
) -> dict[str, int]:
    """Return the costs of summary.json, by its keys.

    Parameters
    ----------
    config : Config
        The run's configuration.
    prepared : Preparation
        Its model.
    split : bool
        Whether the model is split between clients and server.
    pooled : bool
        If it is not, whether the server trains it, not the clients.
    num_clients : int
        Clients that can be sampled.
    """
    spec = prepared.spec
    # Which of bottom, trunk and top a client holds.
    at_client = [True, False, prepared.u_shaped] if split else [not pooled] * 3
    client_memory, server_memory = _memory(config, prepared, at_client, num_clients)
    found = {"client_memory_bytes": client_memory, "server_memory_bytes": server_memory}
    for name, of_parts in {
        "parameters": [count_parameters(part) for part in prepared.model],
        "trainable_parameters": [count_parameters(p, trainable=True) for p in prepared.model],
        "flops_per_sample": part_flops(prepared.model, (spec.channels, spec.height, spec.width)),
    }.items():
        found[f"client_{name}"] = sum(compress(of_parts, at_client))
        found[f"server_{name}"] = sum(of_parts) - found[f"client_{name}"]
    return found


def _memory(
    config: Config, prepared: Preparation, at_client: list[bool], num_clients: int
) -> tuple[int, int]:
    """Return the bytes of a client, and of the server with all participants at work."""
    spec = prepared.spec

    def optimizer_of(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return make_optimizer(parameters, config)

    measure = partial(
        part_memory,
        prepared.model,
        (spec.channels, spec.height, spec.width),
        make_optimizer=optimizer_of,
    )
    memory = measure(batch_size=largest_batch(config))
    client = together(compress(memory, at_client)).total_bytes
    at_server = [not held for held in at_client]
    server = together(compress(memory, at_server))
    rule = STRATEGIES[config.strategy].rule
    if rule is None or not any(at_server) or all(at_server):
        return client, server.total_bytes
    participants = sample_size(config.fraction_train, num_clients)
    if rule.copies:
        return client, server.total_with_copies(participants)
    rows = next(iter(prepared.cut.tensors.values())).shape[0]
    batches = rule.batches_at_once(prepared.server_part, participants, rows * largest_batch(config))
    if batches > 1:
        memory = measure(batch_size=batches * largest_batch(config))
        server = together(compress(memory, at_server))
    return client, server.total_bytes
