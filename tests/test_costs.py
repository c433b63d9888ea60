from __future__ import annotations

import pytest

from fedsplit.config import Config
from fedsplit.costs import costs
from fedsplit.models.split import join_parts
from fedsplit.preparation import Preparation, prepare
from fedsplit.results.memory import TrainingMemory, part_memory
from strategies import STRATEGIES
from tests.split.toys import optimizer_of

BASE = {"batch-size": 8, "data.max-test-samples": 50}


def _prepared(**keys: object) -> tuple[Config, Preparation]:
    config = Config.load(BASE, keys)
    return config, prepare(config)


def _memory(config: Config, prepared: Preparation, batch_size: int) -> list[TrainingMemory]:
    model = prepared.model
    parts = [model.bottom, model.trunk, model.top]
    if not prepared.u_shaped:
        parts = [model.bottom, join_parts(model.trunk, model.top)]
    return part_memory(parts, (1, 28, 28), batch_size, lambda p: optimizer_of(p, config))


def _found(config: Config, prepared: Preparation, num_clients: int) -> tuple[int, int]:
    kind = STRATEGIES[config.strategy]
    found = costs(
        config,
        prepared,
        split=kind.update_rule is not None,
        pooled=kind.pooled,
        num_clients=num_clients,
    )
    return found["client_memory_bytes"], found["server_memory_bytes"]


@pytest.mark.parametrize("strategy", ["sflv1", "sflv3"])
def test_a_copy_for_each_participant(strategy: str) -> None:
    config, prepared = _prepared(strategy=strategy, fraction_train=0.5)
    client, server = _memory(config, prepared, 8)
    assert _found(config, prepared, 6) == (client.total_bytes, server.total_with_copies(3))
    assert server.total_with_copies(3) > 3 * server.total_bytes


@pytest.mark.parametrize("strategy", ["sequential", "sflv2"])
def test_one_server_part_in_turn(strategy: str) -> None:
    config, prepared = _prepared(strategy=strategy)
    client, server = _memory(config, prepared, 8)
    assert _found(config, prepared, 6) == (client.total_bytes, server.total_bytes)


@pytest.mark.parametrize(("num_clients", "at_once"), [(6, 6), (64, 64), (65, 64), (200, 64)])
def test_one_step_on_all_batches_up_to_a_piece(num_clients: int, at_once: int) -> None:
    config, prepared = _prepared(strategy="parallel")
    client = _memory(config, prepared, 8)[0]
    server = _memory(config, prepared, 8 * at_once)[1]
    assert _found(config, prepared, num_clients) == (client.total_bytes, server.total_bytes)


def test_u_shaped_clients_hold_the_top() -> None:
    config, prepared = _prepared(strategy="sflv2", split_topology="u-shaped")
    bottom, trunk, top = _memory(config, prepared, 8)
    client = bottom.total_bytes + top.total_bytes
    assert _found(config, prepared, 6) == (client, trunk.total_bytes)


def test_unsplit_strategies_train_at_one_side() -> None:
    config, prepared = _prepared(strategy="full")
    whole = sum(part.total_bytes for part in _memory(config, prepared, 8))
    assert _found(config, prepared, 6) == (whole, 0)
    assert _found(Config.load(config, {"strategy": "centralized"}), prepared, 6) == (0, whole)
