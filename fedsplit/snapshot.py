"""The state of everything that outlives a round: nested dicts of tensors and JSON values.

Everything that lives longer than a round has ``state_dict`` and ``load_state_dict``, as torch's
optimizers do. `to_bytes` and `save` write the tensors as safetensors and the rest as JSON, without
pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import xxhash
from torch import Tensor
from torch.optim import Optimizer

from fedsplit import bounded_json, tensor_headers
from fedsplit.errors import MissingKeyError, RunError

Snapshot = dict[str, Any]
"""Keys are strings without ``/``; leaves are tensors and JSON values."""

_SEPARATOR = "/"
_TENSOR = "tensor"
_LIMITS = tensor_headers.Limits(tensors=1_000_000, header_bytes=100_000_000)
_DEPTH = 100
_CHECKSUM_LENGTH = 16  # hexadecimal digits of XXH3, before the values


class _Read(dict[str, Any]):
    """A dict of a snapshot that was read, which says in a sentence that it lacks a key."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        super().__init__(values)
        self.source = source

    def __missing__(self, key: str) -> object:
        raise MissingKeyError(self.source, key)


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """Return a snapshot as a safetensors file whose metadata is JSON."""
    tensors, metadata = _parts(state)
    return safetensors.torch.save(tensors, metadata)


def from_bytes(data: bytes) -> Snapshot:
    """Reverse `to_bytes`.

    Raises
    ------
    RunError
        If the bytes are not a snapshot.
    """
    source = f"A saved state of {len(data)} bytes"
    try:
        header = tensor_headers.checked(data, _LIMITS)
        return _checked(header, safetensors.torch.load(data), source)
    except Exception as error:  # what broken bytes make the libraries raise is open-ended
        raise _unreadable(source, error) from None


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write a snapshot to a file, which is the file that `to_bytes` returns.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    tensors, metadata = _parts(state)
    try:
        safetensors.torch.save_file(tensors, path, metadata)
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from None


def load(path: Path) -> Snapshot:
    """Reverse `save`.

    Raises
    ------
    RunError
        If the file is not a whole snapshot, or cannot be read.
    """
    try:
        header = tensor_headers.checked_file(path, _LIMITS)
        return _checked(header, safetensors.torch.load_file(path), f"'{path}'")
    except Exception as error:  # as in `from_bytes`
        raise _unreadable(f"'{path}'", error) from None


def load_values(path: Path) -> Snapshot:
    """Return what `load` returns, with tensors on the meta device: only their shapes are read.

    Raises
    ------
    RunError
        As `load`.
    """
    try:
        header = tensor_headers.checked_file(path, _LIMITS)
        with safetensors.safe_open(path, framework="pt") as file:  # refuses an incomplete file
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        return _joined(header, empty, f"'{path}'")
    except Exception as error:  # as in `from_bytes`
        raise _unreadable(f"'{path}'", error) from None


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, contiguous and sharing no memory, as safetensors asks."""
    apart: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        memory = own.untyped_storage().data_ptr()
        apart[name] = own.clone() if memory in taken else own
        taken.add(memory)
    return apart


def _parts(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what a safetensors file holds: tensors that share no memory, and metadata."""
    tensors: dict[str, Tensor] = {}
    values = json.dumps(_without_tensors(state, "", tensors))
    apart = separate(tensors)
    # One entry: safetensors writes several in any order, and equal states should be equal files.
    return apart, {"values": _checksum(values, apart) + values}


def _checksum(values: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the XXH3 of a snapshot's content; disks and copies change bits without a word."""
    digest = xxhash.xxh3_64(values.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _checksum_and_values(header: Mapping[str, Any]) -> tuple[str, str]:
    written: str = header[tensor_headers.METADATA]["values"]
    return written[:_CHECKSUM_LENGTH], written[_CHECKSUM_LENGTH:]


def _checked(header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> Snapshot:
    checksum, values = _checksum_and_values(header)
    if checksum != _checksum(values, tensors):
        raise ValueError("its checksum is that of other bytes")
    return _joined(header, tensors, source)


def _joined(header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> Snapshot:
    values = bounded_json.loads(_checksum_and_values(header)[1], max_depth=_DEPTH)
    state = _with_tensors(values, tensors, source)
    if not isinstance(state, dict):
        raise TypeError(f"it holds a {type(state).__name__}")
    return state


def _unreadable(what: str, error: Exception) -> RunError:
    return RunError(
        f"{what} cannot be read as a saved state ({error}). It is incomplete or damaged, or "
        "another version of fedsplit wrote it."
    )


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


def is_finite(state: Mapping[str, Any]) -> bool:
    """Return whether no tensor of a snapshot holds NaN or infinity."""
    return all(
        bool(torch.isfinite(leaf).all()) for _, leaf in flat(state) if isinstance(leaf, Tensor)
    )


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


def _with_tensors(value: object, tensors: Mapping[str, Tensor], source: str) -> object:
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        items = {key: _with_tensors(item, tensors, source) for key, item in value.items()}
        return _Read(items, source)
    if isinstance(value, list):
        return [_with_tensors(item, tensors, source) for item in value]
    return value
