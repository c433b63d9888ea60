from __future__ import annotations

import json
import pickle
import struct
import time

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from xxhash import xxh3_64_intdigest

from fedsplit.channel import wire_pb2
from fedsplit.channel.codec import decode, encode, encoded_length, sealed
from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError, DamagedError, shorten
from fedsplit.snapshot import separate
from tests.trap import Trap

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64)
GRID = torch.arange(24.0).reshape(2, 3, 4)
GOOD = encode(Frame(Kind.SMASHED_DATA, 7, {"cut.hidden": GRID, "labels": torch.tensor([1, 2])}))


def message(tensors: bytes, *, kind: int = 1, step: int = 0) -> bytes:
    """Write a frame by hand: checksum, fixed32 step, varint kind, length-delimited tensors."""
    length, varint = len(tensors), b""
    while length > 127:
        varint += bytes([length % 128 + 128])
        length //= 128
    varint += bytes([length])
    head = b"\x0d" + struct.pack("<I", step) + b"\x10" + bytes([kind])
    return sealed(head + b"\x1a" + varint + tensors)


def safetensors_file(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(start: int, end: int, *, shape: list[int] | None = None, dtype: str = "F32") -> object:
    shape = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def assert_same(decoded: Tensor, sent: Tensor) -> None:
    assert decoded.dtype == sent.dtype
    assert decoded.shape == sent.shape
    assert torch.equal(decoded, sent)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "tensor",
    [
        GRID,
        torch.tensor(3.0),
        torch.ones(1),
        torch.empty(0, 4),
        GRID.transpose(0, 2),
        GRID[:, ::2, 1:],
        torch.tensor([5.0]).expand(3, 2),
        GRID[1],
        GRID.requires_grad_(),
    ],
    ids=["cube", "scalar", "one", "empty", "transposed", "strided", "expanded", "view", "graph"],
)
def test_round_trip(tensor: Tensor, dtype: torch.dtype) -> None:
    sent = tensor.detach().to(dtype) if dtype is torch.int64 else tensor.to(dtype)
    frame = decode(encode(Frame(Kind.CUT_GRADIENT, 2**31, {"cut.x": sent})))
    assert (frame.kind, frame.step, list(frame.tensors)) == (Kind.CUT_GRADIENT, 2**31, ["cut.x"])
    assert_same(frame.tensors["cut.x"], sent)
    assert not frame.tensors["cut.x"].requires_grad


@pytest.mark.parametrize("names", ["abc", "cab", "bca", "a", ""])
def test_the_order_of_the_tensors_travels(names: str) -> None:
    """Break it: leave `order` out of `encode`. A safetensors file sorts by dtype."""
    dtypes = {"a": torch.int64, "b": torch.float32, "c": torch.float16}
    frame = Frame(Kind.TRUNK_OUTPUT, 0, {n: torch.ones(2, dtype=dtypes[n]) for n in names})
    assert "".join(decode(encode(frame)).tensors) == names


def test_an_order_costs_bytes_only_where_it_is_not_alphabetical() -> None:
    forth, back = ({name: torch.ones(2) for name in names} for names in ("ab", "ba"))
    lengths = [len(encode(Frame(Kind.TRUNK_OUTPUT, 0, each))) for each in (forth, back)]
    assert lengths[1] - lengths[0] == 2 * (1 + 1 + 1)  # tag, length and name
    assert [encoded_length(Frame(Kind.TRUNK_OUTPUT, 9, each)) for each in (forth, back)] == lengths


@pytest.mark.parametrize("order", [["a"], ["a", "b", "b"], ["b", "c"], ["b", "a", ""]])
def test_an_order_of_other_tensors_is_refused(order: list[str]) -> None:
    message = wire_pb2.Frame.FromString(
        encode(Frame(Kind.TRUNK_OUTPUT, 0, {"b": torch.ones(1), "a": torch.ones(1)}))
    )
    message.order[:] = order
    message.ClearField("checksum")
    with pytest.raises(ChannelError, match="is not a frame of this channel"):
        decode(sealed(message.SerializeToString()))


def test_special_floats_keep_their_bits() -> None:
    values = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    decoded = decode(encode(Frame(Kind.SMASHED_DATA, 0, {"x": values}))).tensors["x"]
    assert torch.equal(decoded.view(torch.int32), values.view(torch.int32))


def test_decoded_tensors_are_aligned_and_own_their_memory() -> None:
    names = [f"t{number}" for number in range(7)]
    tensors = {name: torch.ones(number + 1) for number, name in enumerate(names)}
    decoded = decode(encode(Frame(Kind.SMASHED_DATA, 0, tensors))).tensors
    for tensor in decoded.values():
        assert tensor.data_ptr() % 64 == 0
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_tensors_that_share_memory_travel() -> None:
    flat = torch.arange(6.0)
    shared = {"a": flat, "b": flat, "c": flat[1:4], "d": flat[2:6], "e": flat.reshape(2, 3)}
    frame = Frame(Kind.SMASHED_DATA, 0, shared)
    decoded = decode(encode(frame)).tensors
    for name, tensor in shared.items():
        assert_same(decoded[name], tensor)
    assert encoded_length(frame) == len(encode(frame))
    apart = separate(shared)
    assert len({tensor.untyped_storage().data_ptr() for tensor in apart.values()}) == len(shared)


def test_the_bytes_of_a_frame_are_these() -> None:
    frame = Frame(Kind.SMASHED_DATA, 258, {"labels": torch.tensor([1, 2])})
    header = b'{"labels":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}    '
    file = struct.pack("<Q", len(header)) + header + struct.pack("<qq", 1, 2)
    assert encode(frame) == message(file, step=258)
    finish = b"\x0d\0\0\0\0\x10\x04"
    checksum = struct.pack("<Q", xxh3_64_intdigest(finish))
    assert encode(Frame(Kind.FINISH, 0)) == b"\x29" + checksum + finish


@given(
    shapes=st.lists(st.lists(st.integers(0, 12), max_size=4), max_size=4),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(Kind),
)
@settings(max_examples=80, deadline=None)
def test_encoded_length_is_the_length(
    shapes: list[list[int]], dtype: torch.dtype, kind: Kind
) -> None:
    tensors = {f"cut.{n}": torch.ones(shape, dtype=dtype) for n, shape in enumerate(shapes)}
    expected = encoded_length(Frame(kind, 3, tensors))
    for step in (0, 1, 2**31):
        assert len(encode(Frame(kind, step, tensors))) == expected


@given(
    shapes=st.lists(
        st.tuples(st.lists(st.integers(0, 5), max_size=3), st.sampled_from((*DTYPES, torch.bool))),
        max_size=5,
    ),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_the_bytes_are_those_of_the_libraries(
    shapes: list[tuple[list[int], torch.dtype]], seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    tensors = {
        f"cut.{(n * 7) % 5}": torch.randn(shape, generator=random).to(dtype)
        for n, (shape, dtype) in enumerate(shapes)
    }
    file = safetensors.torch.save(tensors) if tensors else b""
    names = list(tensors)
    rest = wire_pb2.Frame(
        step=seed,
        kind=Kind.CUT_GRADIENT.value,
        tensors=file,
        order=names if names != sorted(names) else (),
    ).SerializeToString()
    checksum = wire_pb2.Frame(checksum=xxh3_64_intdigest(rest)).SerializeToString()
    assert encode(Frame(Kind.CUT_GRADIENT, seed, tensors)) == checksum + rest


def test_encoded_length_tells_names_and_dtypes_apart() -> None:
    def length(name: str, dtype: torch.dtype) -> int:
        return encoded_length(Frame(Kind.SMASHED_DATA, 0, {name: torch.ones(64, dtype=dtype)}))

    assert length("a", torch.float64) - length("a", torch.float32) == 256
    assert length("a" * 64, torch.float32) - length("a" * 8, torch.float32) == 56


F32 = entry(0, 4)
MALFORMED = {
    "not protobuf": sealed(b"\xff\xff\xff\xff"),
    "empty": sealed(),
    "kind 0": message(b"", kind=0),
    "kind 9": message(b"", kind=9),
    "kind 127": message(b"", kind=127),
    "truncated": sealed(GOOD[9:-1]),
    "cut in the header": sealed(GOOD[9:49]),
    "header only": message(b"\x08\0\0\0\0\0\0\0"),
    "short file": message(b"\0"),
    "huge header": message(struct.pack("<Q", 2**63) + b"{}"),
    "largest header": message(struct.pack("<Q", 2**64 - 1) + b"{}"),
    "header beyond the end": message(struct.pack("<Q", 100) + b"{}"),
    "not JSON": message(safetensors_file(b"junk")),
    "a list": message(safetensors_file([1, 2])),
    "not UTF-8": message(safetensors_file(b'{"\xff":1}')),
    "pickle": message(pickle.dumps(Trap())),
    "pickle in a header": message(safetensors_file(pickle.dumps(Trap()))),
    "pickled frame": sealed(pickle.dumps(Trap())),
    "two with one name": message(
        safetensors_file(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
            b"\0" * 8,
        )
    ),
    "two that are equal": message(
        safetensors_file(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b"\0" * 4,
        )
    ),
    "two shapes": message(
        safetensors_file(
            b'{"a":{"dtype":"F32","shape":[4],"shape":[1],"data_offsets":[0,4]}}', b"\0" * 4
        )
    ),
    "metadata": message(safetensors_file({"__metadata__": {}, "a": entry(0, 4)}, b"\0" * 4)),
    "another field": message(
        safetensors_file({"a": {"more": 1, **entry(0, 4)}}, b"\0" * 4)  # type: ignore[dict-item]
    ),
    "deep": message(safetensors_file(b'{"a":' * 4 + b"1" + b"}" * 4)),
    "very deep": message(safetensors_file(b"[" * 50_000)),
    "two kinds": sealed(GOOD[9:16] + b"\x10\x01" + GOOD[16:]),
    "two files": sealed(GOOD[9:] + GOOD[16:]),
    "an unknown field": sealed(GOOD[9:] + b"\x32\x01\0"),
    "another checksum": sealed(GOOD[9:] + GOOD[:9]),
    "no step": sealed(GOOD[14:]),
    "an empty file": message(b""),
    "an order without tensors": sealed(GOOD[9:16] + b"\x22\x01a"),
    "an alphabetical order": sealed(GOOD[9:] + b"\x22\x0acut.hidden\x22\x06labels"),
    "a long length": sealed(b"\x0d\0\0\0\0\x10\x01\x1a\x88\0\x02\0\0\0\0\0\0\0{}"),
    "a long order": sealed(GOOD[9:] + b"\x22\0" * 40_000),
    "overlapping": message(safetensors_file({"a": F32, "b": F32}, b"\0" * 4)),
    "half overlapping": message(
        safetensors_file({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12)
    ),
    "a hole": message(safetensors_file({"a": F32, "b": entry(8, 12)}, b"\0" * 12)),
    "bytes to spare": message(safetensors_file({"a": F32}, b"\0" * 8)),
    "bytes missing": message(safetensors_file({"a": F32}, b"\0" * 2)),
    "backwards": message(safetensors_file({"a": entry(4, 0, shape=[1])}, b"\0" * 4)),
    "shape too large": message(safetensors_file({"a": entry(0, 4, shape=[2])}, b"\0" * 4)),
    "shape overflows": message(
        safetensors_file({"a": entry(0, 4, shape=[2**32, 2**32])}, b"\0" * 4)
    ),
    "negative shape": message(safetensors_file({"a": entry(0, 4, shape=[-1])}, b"\0" * 4)),
    "empty but huge": message(safetensors_file({"a": entry(0, 0, shape=[0, 2**63])})),
    "unknown dtype": message(safetensors_file({"a": entry(0, 4, dtype="PKL")}, b"\0" * 4)),
    "dtype of half a byte": message(
        safetensors_file({"a": entry(0, 2, shape=[4], dtype="F4")}, b"\0" * 2)
    ),
    "dtype torch lacks": message(
        safetensors_file({"a": entry(0, 4, shape=[4], dtype="F8_E8M0")}, b"\0" * 4)
    ),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_bytes_are_refused(data: bytes) -> None:
    """Break it: leave out `tensor_headers.checked`, or let protobuf read the whole message."""
    with pytest.raises(ChannelError, match=f"message of {len(data)} bytes is not a frame"):
        decode(data)
    assert not Trap.sprung


def _empty_tensors(number: int, name: str = "{:x}") -> bytes:
    header = {name.format(n): entry(0, 0) for n in range(number)}
    return message(safetensors_file(json.dumps(header, separators=(",", ":")).encode()))


@pytest.mark.parametrize("number", [347_000, 900, 257])
def test_too_many_tensors_are_refused_at_once(number: int) -> None:
    """Break it: let safetensors make 347,000 tensors, which takes ten seconds."""
    data = _empty_tensors(number)
    began = time.thread_time()  # this thread's own work: the machine may be busy with others
    with pytest.raises(ChannelError, match="more than"):
        decode(data)
    assert time.thread_time() - began < 1


def test_as_many_tensors_as_allowed_are_read() -> None:
    assert len(decode(_empty_tensors(256, "cut.{:03}")).tensors) == 256


@given(st.integers(0, 8 * len(GOOD) - 1))
@settings(max_examples=200, deadline=None)
def test_a_frame_with_one_flipped_bit_is_damaged(bit: int) -> None:
    """Break it: leave the checksum's own tag out of the comparison."""
    flipped = bytearray(GOOD)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedError, match="was changed on its way"):
        decode(bytes(flipped))


@pytest.mark.parametrize("data", [b"", b"\x29", GOOD[:9], GOOD[:-1], GOOD[9:], GOOD + b"\0"])
def test_an_incomplete_frame_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedError):
        decode(data)


def _decode_or_refuse(data: bytes) -> None:
    refusal = ""
    try:
        frame = decode(data)
    except ChannelError as error:
        refusal = str(error)
    else:
        assert isinstance(frame.kind, Kind)
        assert all(isinstance(tensor, Tensor) for tensor in frame.tensors.values())
    assert len(refusal) < 1500


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    _decode_or_refuse(data)
    _decode_or_refuse(message(data))
    _decode_or_refuse(message(safetensors_file(data)))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, len(GOOD)))
@settings(max_examples=200, deadline=None)
def test_damaged_frames_never_raise_anything_else(place: int, value: int, length: int) -> None:
    damaged = bytearray(GOOD)
    damaged[place] = value
    _decode_or_refuse(sealed(bytes(damaged[9:])))
    _decode_or_refuse(sealed(GOOD[9:length]))
    _decode_or_refuse(sealed(GOOD[9:place] + GOOD[length:]))


_ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(
            ["F32", "F16", "BF16", "I64", "BOOL", "U8", "C64", "F4", "F6_E2M3", "F8_E8M0", "F64"]
        ),
        "shape": st.lists(
            st.sampled_from([0, 1, 2, 4, 8, 2**31, 2**62, 2**63 - 1, 2**64 - 1]), max_size=4
        ),
        "data_offsets": st.tuples(st.integers(0, 16), st.integers(0, 16)),
    }
)


@given(st.dictionaries(st.text(max_size=3), _ENTRIES, max_size=2), st.integers(0, 16))
@settings(max_examples=200, deadline=None)
def test_odd_headers_never_raise_anything_else(header: dict[str, object], length: int) -> None:
    _decode_or_refuse(message(safetensors_file(header, b"\x01" * length)))


@pytest.mark.parametrize("step", [-1, 2**32])
def test_a_step_that_has_no_bytes_is_not_encoded(step: int) -> None:
    with pytest.raises(ValueError, match="range"):
        encode(Frame(Kind.SMASHED_DATA, step))


def test_long_text_from_a_sender_is_shortened() -> None:
    assert shorten("short") == "short"
    assert shorten("x" * 5000) == "x" * 1000 + " ..."
