"""What a run costs each side, known before it starts: parameters, FLOPs, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress

from torch import nn

from fedsplit.algorithms import strategy_class
from fedsplit.config import Config
from fedsplit.data.loader import largest_batch
from fedsplit.preparation import Preparation
from fedsplit.results.flops import count_parameters, part_flops
from fedsplit.results.memory import TrainingMemory, part_memory, together
from fedsplit.split.training import Training
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
        Its model, and the modules that its client rule adds.
    split : bool
        Whether the model is split between clients and server.
    pooled : bool
        If it is not, whether the server trains it, not the clients.
    num_clients : int
        Clients that can be sampled.
    """
    spec = prepared.spec
    shape = (spec.channels, spec.height, spec.width)
    # Which of bottom, trunk and top a client holds.
    at_client = [True, False, prepared.u_shaped] if split else [not pooled] * 3
    client_memory, server_memory = _memory(config, prepared, at_client, num_clients)
    found = {"client_memory_bytes": client_memory, "server_memory_bytes": server_memory}
    added = list(prepared.added.values())
    flops = part_flops(prepared.model, shape, ends=_graph_ends(prepared, split=split))
    for name, of_parts, of_added in (
        (
            "parameters",
            [count_parameters(part) for part in prepared.model],
            sum(map(count_parameters, added)),
        ),
        (
            "trainable_parameters",
            [count_parameters(part, trainable=True) for part in prepared.model],
            sum(count_parameters(module, trainable=True) for module in added),
        ),
        (
            "flops_per_sample",
            flops,
            sum(part_flops([prepared.model.bottom, m], shape)[1] for m in added),
        ),
    ):
        at_clients = sum(compress(of_parts, at_client))
        found[f"client_{name}"] = at_clients + of_added
        found[f"server_{name}"] = sum(of_parts) - at_clients
    return found


def _graph_ends(prepared: Preparation, *, split: bool) -> list[bool]:
    """Return, for each part, whether no gradient is computed for its input."""
    return [False, split and not prepared.wire.cut_gradient, False]


def _memory(
    config: Config, prepared: Preparation, at_client: list[bool], num_clients: int
) -> tuple[int, int]:
    """Return the bytes of a client, and of the server with all participants at work."""
    spec = prepared.spec
    training, size = Training.of_clients(config), largest_batch(config)

    def measure(parts: Sequence[nn.Module], batch_size: int = size) -> list[TrainingMemory]:
        found = part_memory(
            parts,
            input_shape=(spec.channels, spec.height, spec.width),
            batch_size=batch_size,
            make_optimizer=lambda weights: training.make_optimizer(("", w) for w in weights),
        )
        if training.accumulate_batches == 1:
            return found
        # The gradients of the batches before are kept beside those of a batch.
        return [replace(m, optimizer_bytes=m.optimizer_bytes + m.gradient_bytes) for m in found]

    memory = measure(prepared.model)
    added: list[TrainingMemory] = []
    for module in prepared.added.values():
        added += measure([prepared.model.bottom, module])[1:]
    client = together([*compress(memory, at_client), *added]).total_bytes
    at_server = [not held for held in at_client]
    server = together(compress(memory, at_server))
    rule = strategy_class(config.strategy).update_rule
    if rule is None or not any(at_server) or all(at_server):
        return client, server.total_bytes
    participants = sample_size(config.fraction_train, num_clients)
    if rule.copies:
        return client, server.total_with_copies(participants)
    rows = next(iter(prepared.wire.smashed.tensors.values())).shape[0]
    batches = rule.batches_at_once(prepared.server_part, participants, rows * size)
    if batches > 1:
        memory = measure(prepared.model, batch_size=batches * size)
        server = together(compress(memory, at_server))
    return client, server.total_bytes
