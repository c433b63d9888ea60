"""Weights as Flower sends them, in every dtype that models have.

Flower's arrays are numpy's, and numpy has no bfloat16. Such a tensor travels as the 16-bit
integers with the same bytes, in an array whose dtype says ``bfloat16``.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord
from numpy.lib.format import read_array_header_1_0
from torch import Tensor

BFLOAT16 = "bfloat16"
_NARROW = (BFLOAT16, "float16")
_parsing = Lock()
"""Numpy parses the header of each array as Python. Before 3.11.8 that fails ("AST constructor
recursion depth mismatch") if a garbage collection lets another thread parse at the same time:
github.com/python/cpython/issues/106905. A client would be left out of a round by chance."""


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


def to_numpy(array: Array) -> npt.NDArray[Any]:
    """Return the numbers of an array as they are stored; threads take turns."""
    with _parsing:
        return array.numpy()


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], Any]:
    """Return shape and dtype of an array in numpy's format 1.0; threads take turns.

    Raises
    ------
    ValueError
        If it is not in this format.
    """
    with _parsing:
        shape, _, dtype = read_array_header_1_0(file)
    return shape, dtype


def to_tensor(array: Array) -> Tensor:
    """Reverse `to_array`."""
    tensor = torch.from_numpy(to_numpy(array))
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
        return Array(to_numpy(array).astype(dtype))
