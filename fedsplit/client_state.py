"""What a client keeps between rounds, in the state that Flower keeps for its node.

Flower sends the state to the process that serves the client next, so it is kept small: the
weights of a rule that keeps its own (sflv3), the optimizer's state (`client-optimizer = "kept"`),
and what the client rule keeps besides.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from torch.optim import Optimizer

from fedsplit.arrays import to_record, to_state
from fedsplit.errors import RunError
from fedsplit.snapshot import (
    Snapshot,
    from_bytes,
    load_optimizer_state,
    optimizer_state,
    to_bytes,
)
from fedsplit.split.client_rules import ClientRule

_WEIGHTS = "fedsplit.weights"
_OPTIMIZER = "fedsplit.optimizer"
_RULE = "fedsplit.rule"


def keep_weights(state: RecordDict, weights: ArrayRecord) -> None:
    """Keep a model's weights."""
    state[_WEIGHTS] = weights


def kept_weights(state: RecordDict) -> ArrayRecord:
    """Return the weights that were kept.

    Raises
    ------
    RunError
        If there are none.
    """
    if _WEIGHTS not in state.array_records:
        raise RunError(
            "This client has lost the weights that it keeps between rounds, and the server sent "
            "none. It receives them again in its next round. Keep a SuperNode running during the "
            "whole run."
        )
    return state.array_records[_WEIGHTS]


def keep_optimizer(state: RecordDict, optimizer: Optimizer) -> None:
    """Keep an optimizer's momentum, moments and step counts."""
    _keep(state, _OPTIMIZER, optimizer_state(optimizer))


def restore_optimizer(state: RecordDict, optimizer: Optimizer) -> None:
    """Give an optimizer the tensors that were kept, if any; its learning rate stays as it is."""
    kept = _kept(state, _OPTIMIZER)
    if kept is not None:
        load_optimizer_state(optimizer, kept)


def keep_rule(state: RecordDict, rule: ClientRule) -> None:
    """Keep what a client rule keeps: nothing of an earlier round, if it returns nothing."""
    if kept := rule.state_dict():
        _keep(state, _RULE, kept)
    else:
        state.pop(_RULE, None)


def restore_rule(state: RecordDict, rule: ClientRule) -> None:
    """Give a client rule what was kept, if anything."""
    kept = _kept(state, _RULE)
    if kept is not None:
        rule.load_state_dict(kept)


def state_dict(state: RecordDict) -> Snapshot:
    """Return all that a client keeps, as a snapshot."""
    return {name: dict(to_state(record)) for name, record in state.array_records.items()}


def load_state_dict(state: RecordDict, snapshot: Snapshot) -> None:
    """Continue from what `state_dict` returned."""
    for name, tensors in snapshot.items():
        state[name] = to_record(tensors)


def _keep(state: RecordDict, name: str, kept: Snapshot) -> None:
    data = np.frombuffer(to_bytes(kept), dtype=np.uint8)
    state[name] = ArrayRecord({"state": Array(data)})


def _kept(state: RecordDict, name: str) -> Snapshot | None:
    record = state.array_records.get(name)
    return None if record is None else from_bytes(record["state"].numpy().tobytes())
