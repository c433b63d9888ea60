from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from fedsplit.arrays import in_dtype, to_array, to_compute, to_record, to_state, to_tensor
from fedsplit.flower_internals import record_bytes

# Every bfloat16 there is, NaN with payload and negative zero among them.
EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def test_every_bfloat16_comes_back_bit_for_bit() -> None:
    """Break it: send float32; NaN payloads and half the bytes are lost."""
    back = to_state(to_record({"a": EVERY}))["a"]
    assert back.dtype == torch.bfloat16
    assert torch.equal(back.view(torch.int16), EVERY.view(torch.int16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool])
def test_other_dtypes_are_flowers_own(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    assert to_record({"a": tensor}) == ArrayRecord({"a": tensor})
    assert torch.equal(to_tensor(to_array(tensor)), tensor)


def test_a_bfloat16_costs_two_bytes() -> None:
    short, long = (to_record({"a": torch.ones(n, dtype=torch.bfloat16)}) for n in (100, 900))
    assert len(long["a"].data) - len(short["a"].data) == 2 * 800
    # One digit of a length may be added to numpy's header or Flower's, never a number.
    assert record_bytes(long) - record_bytes(short) in range(1600, 1604)
    assert (long["a"].dtype, long["a"].shape) == ("bfloat16", (900,))


def test_16_bits_are_computed_in_32_and_cast_back() -> None:
    """Break it: average the integers that a bfloat16 travels as."""
    for dtype in (torch.bfloat16, torch.float16):
        record = to_record({"a": torch.tensor([1.5, -3.0], dtype=dtype), "n": torch.tensor(3)})
        wide = to_compute(record)
        assert wide["a"].numpy().dtype == np.float32
        assert wide["n"] == record["n"]
        mean = Array((wide["a"].numpy() + np.float32(1.0)) / 2)
        back = to_tensor(in_dtype(mean, record["a"].dtype))
        assert torch.equal(back, torch.tensor([1.25, -1.0], dtype=dtype))
    plain = to_record({"a": torch.ones(2)})
    assert to_compute(plain) is plain


def test_rounding_is_to_the_nearest_even() -> None:
    between = Array(np.array([1 + 2**-8, 1 + 3 * 2**-8], dtype=np.float32))
    expected = torch.tensor([1.0, 1 + 2**-6], dtype=torch.bfloat16)
    assert torch.equal(to_tensor(in_dtype(between, "bfloat16")), expected)


class _Pausing:
    """Garbage whose collection lets other threads run."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(0)


def test_threads_can_read_weights_at_the_same_time() -> None:
    """Break it: leave out the lock; before Python 3.11.8 numpy then fails now and then."""
    record = to_record({str(n): torch.ones(3, n + 1) for n in range(40)})
    before = gc.get_threshold()
    gc.set_threshold(20, 2, 2)

    def read(_: int) -> int:
        found = 0
        for _ in range(30):
            _Pausing()
            found += len(to_state(record))
        return found

    try:
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(read, range(8))) == [30 * 40] * 8
    finally:
        gc.set_threshold(*before)
