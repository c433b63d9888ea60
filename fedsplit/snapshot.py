"""The state of everything that outlives a round: nested dicts of tensors and JSON values.

Everything that lives longer than a round has ``state_dict`` and ``load_state_dict``, as torch's
optimizers do. `to_bytes` writes the tensors as safetensors and the rest as JSON, without pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.optim import Optimizer

from fedsplit.errors import RunError

Snapshot = dict[str, Any]
"""Keys are strings without ``/``; leaves are tensors and JSON values."""

_SEPARATOR = "/"
_TENSOR = "tensor"


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """Return a snapshot as a safetensors file whose metadata is JSON."""
    tensors: dict[str, Tensor] = {}
    values = _without_tensors(state, "", tensors)
    # Copies: safetensors takes no two tensors that share memory.
    apart = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(apart, metadata={"values": json.dumps(values)})


def from_bytes(data: bytes) -> Snapshot:
    """Reverse `to_bytes`.

    Raises
    ------
    RunError
        If the bytes are not a snapshot.
    """
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        values = json.loads(header["__metadata__"]["values"])
        tensors = safetensors.torch.load(data)
        state = _with_tensors(values, tensors)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
    except Exception as error:  # what broken bytes make the libraries raise is open-ended
        raise RunError(
            f"A saved state of {len(data)} bytes cannot be read ({error}). It is incomplete, or "
            "another version of fedsplit wrote it."
        ) from None
    return state


def optimizer_state(optimizer: Optimizer) -> Snapshot:
    """Return an optimizer's momentum, moments and step counts; its learning rate is not state."""
    return {
        str(index): {
            name: torch.as_tensor(value) for name, value in values.items() if value is not None
        }
        for index, values in optimizer.state_dict()["state"].items()
    }


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Continue from what `optimizer_state` returned; the learning rate stays as it is."""
    whole: dict[str, Any] = optimizer.state_dict()
    values = {int(index): dict(tensors) for index, tensors in state.items()}
    optimizer.load_state_dict({**whole, "state": values})


def flat(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a snapshot by path, such as ``optimizer/0/exp_avg``."""
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}{_SEPARATOR}")
        else:
            yield prefix + key, value


def _without_tensors(value: object, path: str, tensors: dict[str, Tensor]) -> object:
    """Return a value with each tensor replaced by its name in `tensors`."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str) or _SEPARATOR in key]
        if wrong or set(value) == {_TENSOR}:
            raise TypeError(f"A saved state cannot have the keys {wrong or [_TENSOR]} at '{path}'.")
        return {k: _without_tensors(v, f"{path}{_SEPARATOR}{k}", tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [
            _without_tensors(item, f"{path}{_SEPARATOR}{index}", tensors)
            for index, item in enumerate(value)
        ]
    return value


def _with_tensors(value: object, tensors: Mapping[str, Tensor]) -> object:
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _with_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_tensors(item, tensors) for item in value]
    return value
