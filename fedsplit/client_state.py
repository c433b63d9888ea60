"""What a client keeps between rounds, in the state that Flower keeps for its node.

Flower sends the state to the process that serves the client next, so it is kept small: the
weights of a rule that keeps its own (sflv3), the optimizer's state (`client-optimizer = "kept"`),
and what the client rule keeps besides. Flower loses it with the run: if the run writes checkpoints,
each training reply has a copy, which the client is sent when the run continues, or after a round
to which it did not contribute.

Flower also loses it with a SuperNode, and puts an older state back if a ClientApp that slept
through a round wakes up. So the state says of which round it is, and the server which it expects.
"""

from __future__ import annotations

from collections.abc import Mapping
from logging import WARNING

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.common import log
from torch.optim import Optimizer

from fedsplit.errors import RunError
from fedsplit.messages import KEPT_BYTES, KEPT_RECORDS, KEPT_ROUND, KEPT_WEIGHTS
from fedsplit.snapshot import (
    Snapshot,
    from_bytes,
    is_finite,
    load_optimizer_state,
    optimizer_state,
    to_bytes,
)
from fedsplit.split.client_rules import ClientRule

_OPTIMIZER, _RULE = KEPT_RECORDS
_KEPT = (*KEPT_RECORDS, KEPT_WEIGHTS)
_GRADIENTS, _RUN, _NAMES, _VALUES = "seen-gradients", "run", "names", "values"
_SENT = (*KEPT_RECORDS, KEPT_ROUND)


def keep_weights(state: RecordDict, weights: ArrayRecord) -> None:
    """Keep a model's weights."""
    state[KEPT_WEIGHTS] = weights


def kept_weights(state: RecordDict) -> ArrayRecord:
    """Return the weights that were kept.

    Raises
    ------
    RunError
        If there are none.
    """
    if KEPT_WEIGHTS not in state.array_records:
        raise RunError(
            "This client has lost the weights that it keeps between rounds, and the server sent "
            "none. It receives them again in its next round. Keep a SuperNode running during the "
            "whole run."
        )
    return state.array_records[KEPT_WEIGHTS]


def keep_optimizer(state: RecordDict, optimizer: Optimizer) -> None:
    """Keep an optimizer's momentum, moments and step counts, if they are finite."""
    _keep(state, _OPTIMIZER, optimizer_state(optimizer))


def restore_optimizer(state: RecordDict, optimizer: Optimizer) -> None:
    """Give an optimizer the tensors that were kept, if any; its learning rate stays as it is."""
    kept = _kept(state, _OPTIMIZER)
    if kept is not None:
        load_optimizer_state(optimizer, kept)


def keep_rule(state: RecordDict, rule: ClientRule) -> None:
    """Keep what a client rule keeps, if it is finite; nothing, if it returns nothing."""
    if kept := rule.state_dict():
        _keep(state, _RULE, kept)
    else:
        state.pop(_RULE, None)


def restore_rule(state: RecordDict, rule: ClientRule) -> None:
    """Give a client rule what was kept, if anything."""
    kept = _kept(state, _RULE)
    if kept is not None:
        rule.load_state_dict(kept)


def seen_gradients(state: RecordDict, run: str) -> dict[str, float]:
    """Return the largest values of the cut gradients that a client has seen in a run, by tensor."""
    record = state.config_records.get(_GRADIENTS)
    if record is None or record.get(_RUN) != run:
        return {}
    names, values = record[_NAMES], record[_VALUES]
    assert isinstance(names, list)
    assert isinstance(values, list)
    return {str(name): float(str(value)) for name, value in zip(names, values, strict=True)}


def note_gradients(state: RecordDict, run: str, largest: Mapping[str, float]) -> None:
    """Note what `seen_gradients` returns in the next round; it only bounds what is accepted."""
    if largest:
        state[_GRADIENTS] = ConfigRecord(
            {_RUN: run, _NAMES: list(largest), _VALUES: list(largest.values())}
        )


def mark_kept(state: RecordDict, server_round: int) -> None:
    """Note the round in which what is kept was made, if anything is kept."""
    if any(name in state for name in _KEPT):
        state[KEPT_ROUND] = ConfigRecord({KEPT_ROUND: server_round})
    else:
        state.pop(KEPT_ROUND, None)


def check_kept(state: RecordDict, expected: int) -> None:
    """Forget what is kept, if it is not that of the round which the server expects.

    Parameters
    ----------
    state : RecordDict
        What Flower keeps for this node.
    expected : int
        The round; 0 = nothing has counted so far; -1 = any.

    Raises
    ------
    RunError
        If a later or an earlier one than the last that counted would be continued.
    """
    found = _round_of(state)
    if expected in (-1, found):
        return
    for name in (*_KEPT, KEPT_ROUND):
        state.pop(name, None)
    if expected:
        has = f"is of round {found}" if found else "is lost"
        raise RunError(
            f"What this client keeps between rounds {has}, but the last of its rounds that counted "
            f"is {expected}. A SuperNode was started again, or a ClientApp that had been given up "
            "replied later. The client takes part again from its next round."
        )


def copy_round(state: RecordDict, content: RecordDict) -> None:
    """Copy only the round of what is kept into the content of a reply."""
    if KEPT_ROUND in state.config_records:
        content[KEPT_ROUND] = state.config_records[KEPT_ROUND]


def copy_kept(state: RecordDict, content: RecordDict) -> None:
    """Copy what is kept, other than weights, into the content of a reply."""
    for name in _SENT:
        if name in state.config_records:
            content[name] = state.config_records[name]


def restore_kept(content: RecordDict, state: RecordDict) -> None:
    """Keep what the content of a message gives back to a client of a continued run."""
    for name in _SENT:
        if name in content.config_records:
            state[name] = content.config_records[name]
    if KEPT_WEIGHTS in content.array_records:
        state[KEPT_WEIGHTS] = content.array_records[KEPT_WEIGHTS]


def _keep(state: RecordDict, name: str, kept: Snapshot) -> None:
    """Keep a snapshot; one with NaN or infinity would stay in it for ever."""
    if not is_finite(kept):
        log(
            WARNING,
            "The %s of a client holds NaN or infinity, so it continues from what it kept before. "
            "Lower learning-rate, or set clip-norm.",
            name.removeprefix("kept-"),
        )
        return
    state[name] = ConfigRecord({KEPT_BYTES: to_bytes(kept)})


def _kept(state: RecordDict, name: str) -> Snapshot | None:
    record = state.config_records.get(name)
    data = None if record is None else record[KEPT_BYTES]
    return from_bytes(data) if isinstance(data, bytes) else None


def _round_of(state: RecordDict) -> int:
    record = state.config_records.get(KEPT_ROUND)
    return 0 if record is None else int(str(record[KEPT_ROUND]))
