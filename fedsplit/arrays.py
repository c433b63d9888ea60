"""Weights as Flower sends them, in every dtype that models have.

Flower's arrays are numpy's, and numpy has no bfloat16. Such a tensor travels as the 16-bit
integers with the same bytes, in an array whose dtype says ``bfloat16``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

BFLOAT16 = "bfloat16"
_NARROW = (BFLOAT16, "float16")


def to_record(state: Mapping[str, Tensor]) -> ArrayRecord:
    """Return tensors as Flower sends them, bit for bit."""
    return ArrayRecord({name: to_array(tensor) for name, tensor in state.items()})


def to_state(record: ArrayRecord) -> dict[str, Tensor]:
    """Reverse `to_record`."""
    return {name: to_tensor(array) for name, array in record.items()}


def to_array(tensor: Tensor) -> Array:
    """Return one tensor as Flower sends it."""
    if tensor.dtype is not torch.bfloat16:
        return Array(tensor)
    numbers = Array(tensor.detach().cpu().contiguous().view(torch.int16))
    return Array(BFLOAT16, numbers.shape, numbers.stype, numbers.data)


def to_tensor(array: Array) -> Tensor:
    """Reverse `to_array`."""
    tensor = torch.from_numpy(array.numpy())
    return tensor.view(torch.bfloat16) if array.dtype == BFLOAT16 else tensor


def stored_dtype(dtype: str) -> str:
    """Return the dtype of the stored numbers of an array whose dtype says `dtype`."""
    return "int16" if dtype == BFLOAT16 else dtype


def to_compute(record: ArrayRecord) -> ArrayRecord:
    """Return 16-bit floats as float32, for arithmetic in numpy; other arrays are unchanged."""
    if not any(array.dtype in _NARROW for array in record.values()):
        return record
    return ArrayRecord(
        {
            name: Array(to_tensor(array).float()) if array.dtype in _NARROW else array
            for name, array in record.items()
        }
    )


def in_dtype(array: Array, dtype: str) -> Array:
    """Return an array in another dtype, rounded to the nearest value of it."""
    if array.dtype == dtype:
        return array
    if dtype == BFLOAT16:
        return to_array(to_tensor(array).to(torch.bfloat16))
    with np.errstate(over="ignore"):  # the caller checks for infinity
        return Array(array.numpy().astype(dtype))
