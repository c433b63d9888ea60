"""Headers of safetensors from others."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedsplit.tensor_headers import OF_FILES, Limits, checked, checked_file

ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def file_of(header: str) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + b"\0" * 4


BAD = {
    "a name twice": (f'{{"a":{ENTRY},"a":{ENTRY}}}', "the key 'a' is there twice"),
    "a field twice": (f'{{"a":{ENTRY[:-1]},"shape":[1]}}}}', "the key 'shape' is there twice"),
    "metadata twice": ('{"__metadata__":{},"__metadata__":{}}', "there twice"),
    "deep": ('{"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}}', "nested more than 3"),
    "very deep": ("[" * 100_000, "nested more than 3"),
    "a list": ("[]", "no JSON object"),
    "no object": ('{"a":1}', "'a' does not have"),
    "a field more": (f'{{"a":{ENTRY[:-1]},"b":1}}}}', "'a' does not have"),
    "a field less": ('{"a":{"dtype":"F32","shape":[1]}}', "'a' does not have data_offsets"),
    "no JSON": ("{", "Expecting"),
}


@pytest.mark.parametrize(("header", "said"), BAD.values(), ids=BAD)
def test_bad_headers_are_refused_in_memory_and_in_a_file(
    header: str, said: str, tmp_path: Path
) -> None:
    """Break it: leave the check to safetensors, which takes the last of two."""
    data = file_of(header)
    with pytest.raises(ValueError, match=said):
        checked(data, OF_FILES)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match=said):
        checked_file(tmp_path / "x")


@pytest.mark.parametrize("data", [b"", b"\1\0", struct.pack("<Q", 9) + b"{}", b"\xff" * 8])
def test_an_incomplete_file_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match="header is longer"):
        checked(data, OF_FILES)
    with pytest.raises(ValueError, match="header is longer"):
        checked_file(tmp_path / "x")


def test_many_tensors_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    """Break it: count the tensors after parsing."""
    header = ",".join(
        f'"{n:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(250_000)
    )
    (tmp_path / "x").write_bytes(file_of(f"{{{header}}}"))
    began = time.thread_time()
    with pytest.raises(ValueError, match="it has 250000 tensors, more than 100000"):
        checked_file(tmp_path / "x", OF_FILES._replace(header_bytes=2**25))
    with pytest.raises(ValueError, match=r"its header has \d+ bytes, more than 1000"):
        checked_file(tmp_path / "x", Limits(tensors=5, header_bytes=1000))
    assert time.thread_time() - began < 0.4


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2, 3), "scalar": torch.tensor(1), "none": torch.empty(0, 2)}
    data = safetensors.torch.save(tensors, {"format": "pt"})
    (tmp_path / "x").write_bytes(data)
    found = checked_file(tmp_path / "x")
    assert found == checked(data, OF_FILES)
    assert found == json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert set(found) == {*tensors, "__metadata__"}
