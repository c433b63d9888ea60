"""What a Flower strategy keeps between rounds, such as FedAdam's moments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsplit.arrays import to_record, to_state
from fedsplit.errors import RunError
from fedsplit.snapshot import Snapshot
from strategies.own_aggregator import OURS

_RECORD, _DICT, _LIST, _NONE = "record", "dict", "list", "none"
_ARRAY, _SCALAR, _VALUE, _OWN, _INNER = "array", "scalar", "value", "own", "strategy"
_CONTAINERS = (list, dict, set, tuple, np.ndarray, np.generic, Tensor)


def aggregator_state(aggregator: Strategy) -> Snapshot:
    """Return what a Flower strategy holds, by attribute.

    Flower's strategies keep their moments and momentum in public attributes: as a record of
    arrays, as a dict or a list of NumPy's arrays, or None before the first round. An aggregator of
    the user's own may also keep numbers, texts, and lists and dicts of these; or it has
    ``state_dict`` and ``load_state_dict``, of nested dicts of tensors and JSON values, and these
    decide. So has each that it wraps as its attribute ``strategy``.

    Raises
    ------
    RunError
        If an attribute holds what a checkpoint cannot.
    """
    if has_own_state(aggregator):
        whole: Any = aggregator
        return {"own": {"kind": _OWN, "state": whole.state_dict()}}
    state = {name: _packed_or_none(aggregator, name) for name in vars(aggregator)}
    return {name: packed for name, packed in state.items() if packed is not None}


def load_aggregator_state(aggregator: Strategy, state: Snapshot) -> None:
    """Continue from what `aggregator_state` returned."""
    whole: Any = aggregator
    for name, packed in state.items():
        if packed["kind"] == _OWN:
            whole.load_state_dict(packed["state"])
        elif packed["kind"] == _INNER:
            load_aggregator_state(getattr(whole, name), packed["state"])
        else:
            setattr(aggregator, name, _unpacked(packed))


def has_own_state(aggregator: Strategy) -> bool:
    """Return whether an aggregator saves its state itself."""
    return all(callable(getattr(aggregator, f, None)) for f in ("state_dict", "load_state_dict"))


def _packed_or_none(aggregator: Strategy, name: str) -> Snapshot | None:
    """Return what a checkpoint keeps of an attribute; None if that is nothing."""
    value = vars(aggregator)[name]
    if name in OURS:
        return None
    if isinstance(value, Strategy):
        return {"kind": _INNER, "state": aggregator_state(value)}
    if _is_arrays(value):
        return _packed(value)
    if _is_json(value):
        return {"kind": _VALUE, "value": value}
    if isinstance(value, _CONTAINERS):
        raise RunError(
            f"The aggregator {type(aggregator).__name__} holds {name} = {value!r:.100} "
            f"({type(value).__name__}), which a checkpoint cannot keep. Keep numbers, texts, NumPy "
            "arrays, and lists and dicts of one of these; or give the class state_dict and "
            "load_state_dict; or set checkpoint-every = 0."
        )
    return None


def _is_arrays(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, np.ndarray) for item in value)
    if isinstance(value, dict):
        return all(isinstance(item, np.ndarray | np.generic) for item in value.values())
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biuf"
    return value is None or isinstance(value, ArrayRecord)


def _is_json(value: object) -> bool:
    """Return whether a value is the same after it was written as JSON and read."""
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _packed(value: Any) -> Snapshot:  # noqa: ANN401 - what `_is_arrays` takes
    if isinstance(value, ArrayRecord):
        return {"kind": _RECORD, "arrays": dict(to_state(value))}
    if isinstance(value, Mapping):
        arrays = {name: torch.from_numpy(np.array(item)) for name, item in value.items()}
        return {"kind": _DICT, "arrays": arrays}
    if isinstance(value, list):
        return {"kind": _LIST, "arrays": {str(i): torch.from_numpy(a) for i, a in enumerate(value)}}
    if value is None:
        return {"kind": _NONE, "arrays": {}}
    kind = _ARRAY if isinstance(value, np.ndarray) else _SCALAR
    return {"kind": kind, "arrays": {"0": torch.from_numpy(np.array(value))}}


def _unpacked(packed: Snapshot) -> object:
    if packed["kind"] == _VALUE:
        return json.loads(json.dumps(packed["value"]))  # plain dicts: the aggregator keeps them
    kind, arrays = packed["kind"], packed["arrays"]
    if kind == _RECORD:
        return to_record(arrays)
    if kind == _DICT:
        return {name: tensor.numpy() for name, tensor in arrays.items()}
    if kind == _LIST:
        return [arrays[str(index)].numpy() for index in range(len(arrays))]
    if kind == _NONE:
        return None
    array = arrays["0"].numpy()
    return array if kind == _ARRAY else array[()]
