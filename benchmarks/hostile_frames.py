"""Throw hostile frames at the door of the channel, and count what becomes of them.

uv run python -m benchmarks.hostile_frames --frames 1000000

Each frame is a legal one with something wrong: random bytes, flipped bits, and lengths, dtypes,
shapes, names, orders and headers that a stranger made up. It goes through what the server does
with a received frame: `decode`, the kind and step that are due, and `Wire.unpack`. A frame that
is accepted has to have the structure of the legal one: kind, step, and the tensors with their
names, shapes and dtypes. Only three of the mutations may leave it. A bit that is flipped within
the values, with a checksum that fits, makes another legal frame, unless a value is then NaN,
infinite or no label. An entry of the header may by chance be given what it had. And bytes may be
left out that are no more than the order of the tensors, which `Wire.unpack` takes from the
boundary.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Never

import torch
from rich.console import Console

from fedsplit.boundary import Boundary, TensorSpec
from fedsplit.channel.codec import decode, encode, sealed
from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError, DamagedError
from fedsplit.split.checks import check_order, refused
from fedsplit.split.wire import Wire

STEP = 7
B = 4
_SEAL = 9  # bytes of the checksum
_HEAD = 7  # bytes of step and kind
_WARM = 20_000  # frames until the caches of the libraries are full
WIRE = Wire(
    smashed=Boundary(
        {
            "hidden": TensorSpec((1, 5, 8), torch.float32),
            "half": TensorSpec((1, 3), torch.bfloat16),
            "grid": TensorSpec((1, 3), torch.int64, (1, 2, 2)),
        }
    ),
    num_labels=10,
    max_batch_size=B,
)
Random = random.Random
show = Console(width=1000, highlight=False, markup=False).print


def good_frame() -> bytes:
    """Return the legal frame."""
    draw = torch.Generator().manual_seed(0)
    state = {
        "hidden": torch.randn(B, 5, 8, generator=draw),
        "half": torch.randn(B, 3, generator=draw).bfloat16(),
        "grid": torch.tensor([[1, 2, 2]]).repeat(B, 1),
    }
    return encode(WIRE.pack(Kind.SMASHED_DATA, STEP, state, labels=torch.arange(B)))


def receive(data: bytes) -> Frame:
    """Do what the server does with a frame before it computes.

    Raises
    ------
    ChannelError
        If it is refused.
    """
    frame = decode(data)
    if frame.kind is not Kind.SMASHED_DATA:
        raise refused(frame, "is not due")
    check_order(frame, step=STEP)
    WIRE.unpack(frame)
    return frame


def structure(frame: Frame) -> tuple[object, ...]:
    """Return all of a frame but its values and its order."""
    tensors = {name: (t.shape, t.dtype) for name, t in frame.tensors.items()}
    return frame.kind, frame.step, tensors


class Parts(NamedTuple):
    """A message, cut where its fields begin."""

    head: bytes
    header: bytes
    values: bytes
    order: bytes

    @classmethod
    def of(cls, data: bytes) -> Parts:
        """Cut a message that `encode` made."""
        at = _SEAL + _HEAD + 1
        length = digits = 0
        while True:
            byte = data[at + digits]
            length |= (byte & 127) << 7 * digits
            digits += 1
            if byte < 128:
                break
        file = data[at + digits : at + digits + length]
        start = 8 + int.from_bytes(file[:8], "little")
        head = data[_SEAL : _SEAL + _HEAD]
        return cls(head, file[8:start], file[start:], data[at + digits + length :])

    def message(self, *, header_length: int | None = None) -> bytes:
        """Return the message, with a checksum that fits."""
        size = len(self.header) if header_length is None else header_length
        file = struct.pack("<Q", size % 2**64) + self.header + self.values
        return sealed(self.head + b"\x1a" + _varint(len(file)) + file + self.order)


def _varint(number: int) -> bytes:
    digits = b""
    while number > 127:
        digits += bytes([number & 127 | 128])
        number >>= 7
    return digits + bytes([number])


def _flipped(draw: Random, data: bytes, number: int) -> bytes:
    changed = bytearray(data)
    for _ in range(number):
        bit = draw.randrange(8 * len(data))
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damaged(draw: Random, good: bytes, _: Parts) -> bytes:
    """Flip bits on the way: the checksum does not fit."""
    return _flipped(draw, good, draw.randint(1, 3))


def noise(draw: Random, _: bytes, parts: Parts) -> bytes:
    """Return random bytes with a checksum, alone or after the head of a frame."""
    random_bytes = draw.randbytes(draw.randrange(200))
    return sealed(draw.choice([b"", parts.head, parts.head + b"\x1a"]) + random_bytes)


def flipped(draw: Random, good: bytes, _: Parts) -> bytes:
    """Flip bits anywhere, with a checksum that fits."""
    return sealed(_flipped(draw, good[_SEAL:], draw.choice([1, 1, 1, 2, 8])))


def cut(draw: Random, good: bytes, _: Parts) -> bytes:
    """Leave bytes out, or repeat some."""
    start, end = draw.randrange(_SEAL, len(good)), draw.randrange(_SEAL, len(good) + 1)
    return sealed(good[_SEAL:start] + good[end:])


def lengths(draw: Random, _: bytes, parts: Parts) -> bytes:
    """Lie about the length of the header or of the values."""
    if draw.random() < 0.5:
        odd = draw.choice([0, 1, -1, 2**31, 2**63, 2**64 - 1, draw.randrange(2**16)])
        return parts.message(header_length=odd)
    values = draw.choice([parts.values[: draw.randrange(len(parts.values))], parts.values * 2])
    return parts._replace(values=values).message()


def entries(draw: Random, _: bytes, parts: Parts) -> bytes:
    """Change a dtype, a shape, offsets or a name in the header."""
    header: dict[str, Any] = json.loads(parts.header)
    name = draw.choice(list(header))
    entry = header[name]
    number = draw.choice(
        [0, 1, 2, 3, 4, 5, 8, -1, 2**31, 2**62, 2**63, 2**64, 0.5, True, None, "4"]
    )
    what = draw.randrange(6)
    if what == 0:
        entry["dtype"] = draw.choice(
            ["F32", "F16", "BF16", "I64", "F64", "I8", "BOOL", "F4", "X", 5]
        )
    elif what == 1:
        entry["shape"][draw.randrange(len(entry["shape"]))] = number
    elif what == 2:
        entry["shape"] = draw.choice(
            [[], [number], entry["shape"][::-1], [*entry["shape"], 1], number]
        )
    elif what == 3:
        entry["data_offsets"][draw.randrange(2)] = number
    elif what == 4:
        other = draw.choice(["", "cut.", "cut.other", "labels", "__metadata__", "\0", "n" * 300])
        header[other] = header.pop(name)
    elif draw.random() < 0.5:
        del entry[draw.choice(list(entry))]
    else:
        del header[name]
    return _with_header(parts, header)


def twice(draw: Random, _: bytes, parts: Parts) -> bytes:
    """Write a key twice, with the same value or another one."""
    text = parts.header.decode().rstrip()
    header: dict[str, Any] = json.loads(text)
    name = draw.choice(list(header))
    entry = header[draw.choice(list(header))]
    spelt = json.dumps(name) if draw.random() < 0.5 else f'"\\u{ord(name[0]):04x}{name[1:]}"'
    if draw.random() < 0.3:
        text = text.replace('"shape"', '"shape":[1],"shape"', 1)
    else:
        text = f"{{{spelt}:{json.dumps(entry)},{text[1:]}"
    return parts._replace(header=text.encode()).message()


def deep(draw: Random, _: bytes, parts: Parts) -> bytes:
    """Nest the header, or a shape in it."""
    depth = draw.choice([2, 5, 50, 500, 5000, 60_000])
    opened = draw.choice([b"[", b'{"a":'])
    if draw.random() < 0.5:
        return parts._replace(header=opened * depth).message()
    nested = b"[" * depth + b"]" * depth
    return parts._replace(header=parts.header.replace(b"[", nested + b",[", 1)).message()


def many(draw: Random, _: bytes, parts: Parts) -> bytes:
    """Add empty tensors, or names in the order."""
    number = draw.choice([1, 10, 200, 300])
    if draw.random() < 0.5:
        header = json.loads(parts.header)
        end = len(parts.values)
        header |= {
            f"e{n}": {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
            for n in range(number)
        }
        return _with_header(parts, header)
    return parts._replace(order=parts.order + b"\x22\x01a" * number).message()


def fields(draw: Random, good: bytes, parts: Parts) -> bytes:
    """Repeat, leave out or invent fields of the message."""
    body = good[_SEAL:]
    extra = draw.choice(
        [b"\x10\x02", b"\x0d\1\0\0\0", b"\x32\x01\0", b"\x22\x00", b"\x29" + b"\0" * 8]
    )
    kind = parts.head[:-1] + bytes([draw.randrange(256)])
    return sealed(
        draw.choice(
            [
                body + extra,
                extra + body,
                body + body,
                body[5:],
                parts.head + extra,
                kind + body[_HEAD:],
            ]
        )
    )


def not_finite(draw: Random, _: bytes, parts: Parts) -> bytes:
    """Put NaN, infinity or a label that is none into the values."""
    header = json.loads(parts.header)
    name = draw.choice(["cut.hidden", "cut.half", "labels", "cut.grid"])
    start, end = header[name]["data_offsets"]
    size = {"F32": 4, "BF16": 2, "I64": 8}[header[name]["dtype"]]
    at = start + size * draw.randrange((end - start) // size)
    value = {
        2: struct.pack("<H", draw.choice([0x7FC0, 0x7F80, 0xFF80])),
        4: struct.pack("<f", draw.choice([float("nan"), float("inf"), float("-inf")])),
        8: struct.pack("<q", draw.choice([-1, 10, 2**40, -(2**63)])),
    }[size]
    values = parts.values[:at] + value + parts.values[at + size :]
    return parts._replace(values=values).message()


def _with_header(parts: Parts, header: object) -> bytes:
    return parts._replace(header=json.dumps(header, separators=(",", ":")).encode()).message()


MUTATIONS: dict[str, Callable[[Random, bytes, Parts], bytes]] = {
    function.__name__: function
    for function in (
        *(damaged, noise, flipped, cut, lengths, entries),
        *(twice, deep, many, fields, not_finite),
    )
}


MAY_BE_LEGAL = ("flipped", "entries", "cut")


class Found(NamedTuple):
    """What became of hostile frames.

    Attributes
    ----------
    outcomes : Counter[tuple[str, str]]
        How many frames of each mutation were ``damaged``, ``refused`` or ``accepted``.
    wrong : list[str]
        Frames that were accepted although they are not legal, or raised another error.
    seconds : float
        The time that `receive` took for all.
    memory_bytes : tuple[int, int]
        Resident memory after the first frames, and at the end.
    """

    outcomes: Counter[tuple[str, str]]
    wrong: list[str]
    seconds: float
    memory_bytes: tuple[int, int]


def throw(frames: int, *, seed: int = 0) -> Found:
    """Throw so many frames; the same seed makes the same ones."""
    good = good_frame()
    parts, expected = Parts.of(good), structure(receive(good))
    outcomes: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    seconds, first = 0.0, memory()
    for number in range(frames):
        draw = Random(f"{seed} {number}")
        kind = draw.choice(list(MUTATIONS))
        data = MUTATIONS[kind](draw, good, parts)
        began = time.perf_counter()
        outcome, fault = _outcome(data, good, expected)
        seconds += time.perf_counter() - began
        if outcome == "accepted" and kind not in MAY_BE_LEGAL:
            fault = fault or "accepted"
        outcomes[kind, outcome] += 1
        if fault:
            wrong.append(f"frame {number} ({kind}): {fault}")
        if number == min(_WARM, frames // 2):
            first = memory()
    return Found(outcomes, wrong, seconds, (first, memory()))


def _outcome(data: bytes, good: bytes, expected: tuple[object, ...]) -> tuple[str, str]:
    try:
        found = structure(receive(data))
    except DamagedError:
        return "damaged", ""
    except ChannelError:
        return "refused", ""
    except Exception as error:  # whatever it is, it is what this looks for
        return "failed", repr(error)
    if data == good:
        return "unchanged", ""
    return "accepted", "" if found == expected else f"accepted as {found}"


def memory() -> int:
    """Return the resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Print what became of the frames, as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = throw(arguments.frames, seed=arguments.seed)
    kinds = ("damaged", "refused", "accepted", "unchanged", "failed")
    show(f"| mutation | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for name in (*MUTATIONS, "all"):
        row = [
            sum(
                n
                for (kind, o), n in found.outcomes.items()
                if o == outcome and name in (kind, "all")
            )
            for outcome in kinds
        ]
        show(f"| {name} | {' | '.join(f'{n:,}' for n in row)} |")
    rate = arguments.frames / found.seconds
    show(f"{arguments.frames:,} frames in {found.seconds:.1f} s: {rate:,.0f} a second")
    conclude(found.wrong, found.memory_bytes)


def conclude(wrong: list[str], memory_bytes: tuple[int, int]) -> Never:
    """Print what was wrong, and exit with 1 if anything was."""
    before, after = (size / 2**20 for size in memory_bytes)
    show(f"resident memory: {before:.1f} MiB after the first frames, {after:.1f} MiB at the end")
    show(f"accepted although not legal, or another error: {len(wrong)}")
    for line in wrong[:20]:
        show(f"  {line:.300}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
