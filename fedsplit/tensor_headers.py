"""The headers of safetensors from others, checked before the library makes tensors of them.

The library reads a header of up to 100 MB, and takes the last of two tensors with one name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from fedsplit import bounded_json

METADATA = "__metadata__"
_ENTRY = {"dtype", "shape", "data_offsets"}
_LENGTH = 8  # bytes, in front of the header
_DEPTH = 3  # the header, a tensor, its shape


class Limits(NamedTuple):
    """How much a header may hold.

    Attributes
    ----------
    tensors : int
        Their number.
    header_bytes : int
        Its length.
    """

    tensors: int
    header_bytes: int


OF_FILES = Limits(tensors=100_000, header_bytes=2**24)
"""Of a file of weights: 168 bytes for each tensor, where real ones have about 110."""


def checked(data: bytes | memoryview, limits: Limits) -> dict[str, Any]:
    """Return the header of a safetensors file in memory: the entry of each tensor by its name.

    Raises
    ------
    ValueError
        If it is longer than allowed, is no header, or has a name twice.
    """
    return _parsed(bytes(data[: _LENGTH + limits.header_bytes]), len(data), limits)


def checked_file(path: Path, limits: Limits = OF_FILES) -> dict[str, Any]:
    """Return the header of a safetensors file; no more of the file is read.

    Raises
    ------
    ValueError
        As `checked`.
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        start = file.read(_LENGTH)
        wanted = min(int.from_bytes(start, "little"), limits.header_bytes)
        return _parsed(start + file.read(wanted), length, limits)


def _parsed(start: bytes, length: int, limits: Limits) -> dict[str, Any]:
    size = int.from_bytes(start[:_LENGTH], "little")
    if length < _LENGTH or size > length - _LENGTH:
        raise ValueError(f"it has {length} bytes, and its header is longer")
    if size > limits.header_bytes:
        raise ValueError(f"its header has {size} bytes, more than {limits.header_bytes}")
    text = start[_LENGTH : _LENGTH + size].decode()
    # Before it is parsed: a parser needs seconds for some hundred thousand entries.
    if (number := text.count('"data_offsets"')) > limits.tensors:
        raise ValueError(f"it has {number} tensors, more than {limits.tensors}")
    header = bounded_json.loads(text, max_depth=_DEPTH)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    entries = {name: entry for name, entry in header.items() if name != METADATA}
    if len(entries) > limits.tensors:
        raise ValueError(f"it has {len(entries)} tensors, more than {limits.tensors}")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != _ENTRY:
            raise ValueError(f"{name!r:.100} does not have {', '.join(sorted(_ENTRY))}")
    return header
