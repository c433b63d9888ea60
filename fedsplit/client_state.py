"""What a client keeps from round to round: tensors in the state that Flower keeps for its node.

Flower carries the state to whichever process serves the client next, so it is kept small: a bottom
of its own (sflv3) and its optimizer's state (`client-optimizer = "kept"`), and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor
from torch.optim import Optimizer

from fedsplit.arrays import to_record, to_state
from fedsplit.errors import RunError

_WEIGHTS = "fedsplit.weights"
_OPTIMIZER = "fedsplit.optimizer"


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
            "This client has lost the weights that it keeps from round to round, and was sent "
            "none. It gets them again in the next round it takes part in; let a SuperNode run for "
            "as long as the run lasts."
        )
    return state.array_records[_WEIGHTS]


def keep_optimizer(state: RecordDict, optimizer: Optimizer) -> None:
    """Keep an optimizer's tensors: momentum, moments, step counts."""
    tensors = {
        f"{index}/{name}": torch.as_tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None
    }
    state[_OPTIMIZER] = to_record(tensors)


def restore_optimizer(state: RecordDict, optimizer: Optimizer) -> None:
    """Give an optimizer the tensors that were kept, if any; its learning rate stays its own."""
    record = state.array_records.get(_OPTIMIZER)
    if record is None:
        return
    values: dict[int, dict[str, Tensor]] = {}
    for key, tensor in to_state(record).items():
        index, _, name = key.partition("/")
        values.setdefault(int(index), {})[name] = tensor
    whole: dict[str, Any] = optimizer.state_dict()
    optimizer.load_state_dict({**whole, "state": values})
