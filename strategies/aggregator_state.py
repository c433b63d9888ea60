"""What a Flower strategy keeps between rounds, such as FedAdam's moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedsplit.arrays import to_record, to_state
from fedsplit.snapshot import Snapshot

_RECORD, _DICT, _LIST, _NONE = "record", "dict", "list", "none"


def aggregator_state(aggregator: Strategy) -> Snapshot:
    """Return the arrays that a Flower strategy holds, by attribute.

    Flower's strategies keep their moments and momentum in public attributes: as a record of
    arrays, as a dict or a list of NumPy's arrays, or None before the first round.
    """
    return {name: _packed(value) for name, value in vars(aggregator).items() if _is_state(value)}


def load_aggregator_state(aggregator: Strategy, state: Snapshot) -> None:
    """Continue from what `aggregator_state` returned."""
    for name, packed in state.items():
        setattr(aggregator, name, _unpacked(packed))


def _is_state(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, np.ndarray) for item in value)
    if isinstance(value, ArrayRecord):
        return True
    if isinstance(value, dict):
        return all(isinstance(item, np.ndarray | np.generic) for item in value.values())
    return value is None


def _packed(value: Any) -> Snapshot:  # noqa: ANN401 - what `_is_state` takes
    if isinstance(value, ArrayRecord):
        return {"kind": _RECORD, "arrays": dict(to_state(value))}
    if isinstance(value, Mapping):
        arrays = {name: torch.from_numpy(np.array(item)) for name, item in value.items()}
        return {"kind": _DICT, "arrays": arrays}
    if isinstance(value, list):
        return {"kind": _LIST, "arrays": {str(i): torch.from_numpy(a) for i, a in enumerate(value)}}
    return {"kind": _NONE, "arrays": {}}


def _unpacked(packed: Snapshot) -> object:
    kind, arrays = packed["kind"], packed["arrays"]
    if kind == _RECORD:
        return to_record(arrays)
    if kind == _DICT:
        return {name: tensor.numpy() for name, tensor in arrays.items()}
    if kind == _LIST:
        return [arrays[str(index)].numpy() for index in range(len(arrays))]
    return None
