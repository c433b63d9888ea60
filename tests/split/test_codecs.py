"""Codecs: the identity, and two toys that show what a codec may do and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsplit.boundary import Boundary, TensorSpec, by_name
from fedsplit.channel.codec import decode, encode, encoded_length
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.ledger import Traffic
from fedsplit.errors import ChannelError, ConfigError
from fedsplit.seeding import generator
from fedsplit.split.client import SplitSession
from fedsplit.split.codecs import IDENTITY, Codec, Draw, Packed, load_codec
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.in_turn import InTurn
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import SplitServer
from fedsplit.split.steps import score
from fedsplit.split.traffic import step_traffic, stream_traffic
from fedsplit.split.wire import LOSS, NUM_CORRECT, Names, Wire
from tests.channel.hosts import CountingProxy
from tests.split.reference import at_once
from tests.split.toy_codecs import Flat, Int8, make_int8
from tests.split.toys import (
    CUT,
    TREE_CUT,
    Batch,
    Client,
    Serve,
    Straight,
    assert_close,
    assert_same_bits,
    batches_of,
    bottom_of,
    server_part_of,
    settings_of,
    weights_of,
)
from tests.split.ushaped import U_CUT, U_TREE_CUT, TopClient, top_of, trunk_of

RULES: list[type[UpdateRule]] = [PerParticipantCopies, InTurn, Concatenated]
TOKENS = Boundary(
    {
        "hidden": TensorSpec((1, 3, 64), torch.float32),
        "place": TensorSpec((1, 2), torch.int64),
        "tap": TensorSpec((2, 48), torch.bfloat16),
    }
)
INT8 = Wire(TOKENS, 5, 6, uplink=Int8(), downlink=Int8(), seed=3)
OUTPUT = Boundary({"hidden": TensorSpec((1, 7), torch.float32)}, bare=True)
U_INT8 = replace(INT8, output=OUTPUT)
U_FLOATS = replace(U_INT8, smashed=TOKENS.floating)


def tokens_of(batch_size: int) -> dict[str, Tensor]:
    random = generator(5, "tokens", batch_size)
    return {
        "hidden": torch.randn(batch_size, 3, 64, generator=random),
        "place": torch.arange(2 * batch_size).reshape(batch_size, 2),
        "tap": torch.randn(2 * batch_size, 48, generator=random).bfloat16(),
    }


def packed_frame(
    wire: Wire, batch_size: int, *, step: int = 0, stream: Names = ("train", 1, 4)
) -> Frame:
    labels = torch.arange(batch_size) % 5
    scores: dict[str, Any] = {} if wire.output else {"labels": labels}
    state = {name: tokens_of(batch_size)[name] for name in wire.smashed.tensors}
    return wire.pack(Kind.SMASHED_DATA, step, state, stream=stream, **scores)


def test_the_identity_sends_the_very_tensors() -> None:
    """Break it: copy in `Identity.encode`; the codec would cost time for nothing."""
    tensors = {name: t for name, t in tokens_of(2).items() if t.is_floating_point()}
    specs = TOKENS.floating.tensors

    def never() -> torch.Generator:
        raise AssertionError("the identity draws nothing")

    sent = IDENTITY.encode(tensors, never)
    assert all(sent[name] is tensor for name, tensor in tensors.items())
    received = IDENTITY.decode(sent, specs, 2)
    assert all(received[name] is tensor for name, tensor in tensors.items())
    assert IDENTITY.packed(specs, 2) == {
        "hidden": Packed(torch.Size([2, 3, 64]), torch.float32),
        "tap": Packed(torch.Size([4, 48]), torch.bfloat16),
    }


def test_the_bytes_of_a_frame_without_a_codec_are_the_tensors_own() -> None:
    """Break it: change a name or the order of the tensors in `Payload._named`."""
    wire = Wire(TOKENS, 5, 6)
    state, labels = tokens_of(2), torch.tensor([0, 1])
    frame = wire.pack(Kind.SMASHED_DATA, 4, state, stream=("train", 1, 0), labels=labels)
    by_hand = {f"cut.{name}": tensor for name, tensor in state.items()} | {"labels": labels}
    assert encode(frame) == encode(Frame(Kind.SMASHED_DATA, 4, by_hand))
    content = wire.unpack(decode(encode(frame)))
    assert_same_bits(by_name(content.state), state)


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_a_codecs_frame_matches_packed_and_decodes_to_the_boundary(batch_size: int) -> None:
    """Break it: give the codec the integers too, or decode to its own dtype."""
    frame = decode(encode(packed_frame(INT8, batch_size)))
    assert {name: (list(t.shape), t.dtype) for name, t in frame.tensors.items()} == {
        "cut.hidden": ([batch_size, 3, 64], torch.int8),
        "cut.hidden.scale": ([batch_size, 3], torch.float32),
        "cut.place": ([batch_size, 2], torch.int64),
        "cut.tap": ([2 * batch_size, 48], torch.int8),
        "cut.tap.scale": ([2 * batch_size], torch.float32),
        "labels": ([batch_size], torch.int64),
    }
    content = INT8.unpack(frame)
    state, decoded = tokens_of(batch_size), by_name(content.state)
    assert content.batch_size == batch_size
    assert list(decoded) == list(state)
    assert torch.equal(decoded["place"], state["place"])
    for name, axis in (("hidden", 2), ("tap", 1)):
        assert decoded[name].shape == state[name].shape
        assert decoded[name].dtype == state[name].dtype
        limit = state[name].float().abs().amax(dim=axis, keepdim=True) / 127 * 1.01 + 0.02
        assert ((decoded[name].float() - state[name].float()).abs() <= limit).all()
        assert not torch.equal(decoded[name], state[name])


def drawn(wire: Wire, step: int, stream: Names) -> Tensor:
    return packed_frame(wire, 4, step=step, stream=stream).tensors["cut.hidden"]


def test_draws_repeat_by_names_and_differ_by_each() -> None:
    """Break it: leave the step, the seed, the kind or the stream out of the generator's names."""
    names: list[Names] = [("train", 1, 4), ("train", 1, 5), ("train", 2, 4), ("evaluate", 1, 4)]
    streams = [drawn(INT8, 0, stream) for stream in names]
    others = [drawn(INT8, 1, names[0]), drawn(replace(INT8, seed=4), 0, names[0])]
    scores: dict[str, Any] = {"loss": torch.tensor(1.0), "num_correct": torch.tensor(1)}
    floating = {name: tokens_of(4)[name] for name in ("hidden", "tap")}
    answer = INT8.pack(Kind.CUT_GRADIENT, 0, floating, stream=names[0], **scores)
    found = [*streams, *others, answer.tensors["cut.hidden"]]
    for one, other in itertools.combinations(found, 2):
        assert not torch.equal(one, other)
    assert torch.equal(drawn(INT8, 0, names[0]), streams[0])


def changed(frame: Frame, **tensors: Tensor) -> Frame:
    """Return a frame with tensors replaced; ``cut__hidden`` stands for ``cut.hidden``."""
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return Frame(frame.kind, frame.step, {**frame.tensors, **named})


class Untouched(Int8):
    """Must not be asked to decode."""

    def decode(
        self, packed: Mapping[str, Tensor], tensors: Mapping[str, TensorSpec], batch_size: int
    ) -> dict[str, Tensor]:
        raise AssertionError("decoded before it was checked")


HOSTILE = {
    "too short": ({"cut__hidden": torch.ones(2, 3, 63).char()}, r"\[2, 3, 63\], not torch.int8"),
    "one example more": ({"cut__hidden": torch.ones(3, 3, 64).char()}, r"\[3, 3, 64\], not"),
    "scale too short": ({"cut__tap__scale": torch.ones(3)}, r"\[3\], not torch.float32 \[4\]"),
    "not packed": ({"cut__hidden": torch.ones(2, 3, 64)}, "as torch.float32"),
    "scale NaN": ({"cut__hidden__scale": torch.full((2, 3), torch.nan)}, "NaN or infinity"),
    "scale inf": ({"cut__hidden__scale": torch.full((2, 3), torch.inf)}, "NaN or infinity"),
    "scale of half": ({"cut__hidden__scale": torch.ones(2, 3).half()}, "as torch.float16"),
    "one more": ({"cut__hidden__zero": torch.ones(2, 3)}, "holds the tensors"),
}


@pytest.mark.parametrize(("tensors", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_tensors_are_refused_before_they_are_decoded(
    tensors: Mapping[str, Tensor], words: str
) -> None:
    """Break it: check what has been decoded instead of what came."""
    frame = changed(packed_frame(INT8, 2), **tensors)
    with pytest.raises(ChannelError, match=f"SMASHED_DATA frame of step 0 .*{words}"):
        replace(INT8, uplink=Untouched()).unpack(frame)


def test_a_codec_that_refuses_values_refuses_the_frame() -> None:
    frame = changed(packed_frame(INT8, 2), cut__tap__scale=torch.tensor([1.0, 1.0, -3.0, 1.0]))
    with pytest.raises(ChannelError, match=r"cannot be decoded \(a scale of 'tap' is -3\.0\)"):
        INT8.unpack(frame)


class Decoding(Int8):
    """Decodes to something of the test's choice."""

    def __init__(self, decoded: object) -> None:
        self.decoded = decoded

    def decode(
        self, packed: Mapping[str, Tensor], tensors: Mapping[str, TensorSpec], batch_size: int
    ) -> dict[str, Tensor]:
        if isinstance(self.decoded, Exception):
            raise self.decoded
        assert isinstance(self.decoded, dict)
        return self.decoded


RIGHT = {"hidden": torch.zeros(2, 3, 64), "tap": torch.zeros(4, 48).bfloat16()}
WRONG: dict[str, tuple[object, str]] = {
    "ValueError": (ValueError("bad table"), r"cannot be decoded \(bad table\)"),
    "any error": (RuntimeError("bad index"), r"cannot be decoded \(bad index\)"),
    "shape": ({**RIGHT, "hidden": torch.zeros(2, 64, 3)}, "does not decode to 'hidden'"),
    "B": ({**RIGHT, "hidden": torch.zeros(3, 3, 64)}, "does not decode to 'hidden'"),
    "dtype": ({**RIGHT, "tap": torch.zeros(4, 48)}, "does not decode to 'tap'"),
    "missing": (
        {"hidden": RIGHT["hidden"]},
        r"decodes to \['hidden'\], not to \['hidden', 'tap'\]",
    ),
    "more": ({**RIGHT, "count": torch.zeros(2)}, r"decodes to \['count', 'hidden', 'tap'\], not"),
    "NaN": (
        {**RIGHT, "tap": torch.full((4, 48), torch.nan).bfloat16()},
        "NaN or infinity in 'tap'",
    ),
    "inf": ({**RIGHT, "hidden": torch.full((2, 3, 64), -torch.inf)}, "infinity in 'hidden'"),
}


@pytest.mark.parametrize(("decoded", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_decoding_is_refused(decoded: object, words: str) -> None:
    """Break it: trust what a codec decodes; finite numbers can decode to infinity."""
    wire = replace(INT8, uplink=Decoding(decoded))
    with pytest.raises(ChannelError, match=f"SMASHED_DATA frame of step 0 .*{words}"):
        wire.unpack(packed_frame(wire, 2))
    good = replace(INT8, uplink=Decoding(dict(RIGHT)))
    assert by_name(good.unpack(packed_frame(good, 2)).state)["tap"] is RIGHT["tap"]


class HalfForgotten(Codec):
    """Sends 16 bits and forgets to convert them back."""

    def packed(self, tensors: Mapping[str, TensorSpec], batch_size: int) -> dict[str, Packed]:
        return {n: Packed(s.shape_for(batch_size), torch.float16) for n, s in tensors.items()}

    def encode(self, tensors: Mapping[str, Tensor], draw: object) -> dict[str, Tensor]:
        return {name: tensor.half() for name, tensor in tensors.items()}

    def decode(
        self, packed: Mapping[str, Tensor], tensors: Mapping[str, TensorSpec], batch_size: int
    ) -> dict[str, Tensor]:
        return dict(packed)


def test_a_decoder_that_hands_on_another_dtype_is_refused() -> None:
    """Break it: trust every tensor that a codec returns unchanged."""
    wire = Wire(TOKENS, 5, 6, uplink=HalfForgotten())
    with pytest.raises(ChannelError, match=r"does not decode to 'hidden' of torch\.float32"):
        wire.unpack(packed_frame(wire, 2))


@pytest.mark.parametrize("codec", [IDENTITY, Int8(), Flat()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("batch_size", [1, 2, 5, 6])
def test_b_is_read_off_the_packed_tensors_where_no_label_travels(
    codec: Codec, batch_size: int
) -> None:
    """Break it: divide a length by that of one example; a buffer may have a header."""
    wire = replace(U_FLOATS, uplink=codec)
    frame = decode(encode(packed_frame(wire, batch_size)))
    content = wire.unpack(frame)
    assert content.batch_size == batch_size
    assert [len(t) for t in by_name(content.state).values()] == [batch_size, 2 * batch_size]


@pytest.mark.parametrize("codec", [IDENTITY, Int8(), Flat()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("batch_size", [0, 7])
def test_too_few_and_too_many_examples_are_refused_where_no_label_travels(
    codec: Codec, batch_size: int
) -> None:
    wire = replace(U_FLOATS, uplink=codec)
    frame = packed_frame(wire, batch_size)
    with pytest.raises(ChannelError, match=f"has {batch_size} examples, not 1 to 6"):
        wire.unpack(frame)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 13, 2 + 288 * 2 - 1, 2 + 288 * 2 + 1, 10**6])
def test_a_buffer_of_any_other_length_is_refused(length: int) -> None:
    wire = replace(U_FLOATS, uplink=Flat())
    frame = changed(packed_frame(wire, 2), cut__all=torch.zeros(length))
    with pytest.raises(ChannelError, match="SMASHED_DATA frame of step 0 has"):
        wire.unpack(frame)
    scalar = changed(packed_frame(wire, 2), cut__all=torch.zeros(()))
    with pytest.raises(ChannelError, match="has 0 examples"):
        wire.unpack(scalar)


@pytest.mark.parametrize("wire", [INT8, U_INT8], ids=["vanilla", "u-shaped"])
@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_lengths_follow_from_the_codec(wire: Wire, batch_size: int) -> None:
    """Break it: compute `max_frame_bytes` or `step` from the boundary instead of the codec."""
    state = tokens_of(batch_size)
    floating = {name: t for name, t in state.items() if t.is_floating_point()}
    sent = [packed_frame(wire, batch_size)]
    if wire.output is None:
        scores: dict[str, Any] = {"loss": torch.tensor(1.0), "num_correct": torch.tensor(1)}
        answers = [wire.pack(Kind.CUT_GRADIENT, 0, floating, **scores)]
    else:
        output = torch.randn(batch_size, 7, generator=generator(1))
        sent.append(wire.pack(Kind.OUTPUT_GRADIENT, 0, output))
        answers = [
            wire.pack(Kind.TRUNK_OUTPUT, 0, output),
            wire.pack(Kind.CUT_GRADIENT, 0, floating),
        ]
    traffic = Traffic(sum(len(encode(f)) for f in sent), sum(len(encode(f)) for f in answers))
    assert step_traffic(wire, batch_size).traffic == traffic
    assert [encoded_length(f) for f in wire.step(batch_size).uplink] == [
        len(encode(f)) for f in sent
    ]
    lengths = [len(encode(frame)) for frame in (*sent, *answers)]
    assert max(lengths) <= wire.max_frame_bytes
    if batch_size == wire.max_batch_size:
        assert max(lengths) == wire.max_frame_bytes
        plain = replace(wire, uplink=IDENTITY, downlink=IDENTITY)
        assert wire.max_frame_bytes < plain.max_frame_bytes


def test_each_direction_has_a_codec_of_its_own() -> None:
    up, down = replace(INT8, downlink=IDENTITY), replace(INT8, uplink=IDENTITY)
    plain = replace(INT8, uplink=IDENTITY, downlink=IDENTITY)
    traffic = {
        name: step_traffic(wire, 4).traffic
        for name, wire in {"up": up, "down": down, "plain": plain, "both": INT8}.items()
    }
    assert traffic["up"].uplink_bytes == traffic["both"].uplink_bytes
    assert traffic["up"].downlink_bytes == traffic["plain"].downlink_bytes
    assert traffic["down"].uplink_bytes == traffic["plain"].uplink_bytes
    assert traffic["down"].downlink_bytes == traffic["both"].downlink_bytes
    assert traffic["both"].uplink_bytes < traffic["plain"].uplink_bytes
    assert traffic["both"].downlink_bytes < traffic["plain"].downlink_bytes


DATA: dict[int, list[Batch]] = {0: batches_of(0, 8, 8, 3), 4: batches_of(4, 5, 8)}


def serving(kind: type[UpdateRule], wire: Wire) -> SplitServer:
    part = server_part_of() if wire.output is None else trunk_of()
    return SplitServer(rule=kind(part, settings_of()), wire=wire)


def client_of(address: str, token: str, wire: Wire, participant: int) -> Client:
    names = ("train", 1, participant)
    if wire.output is None:
        return Client(address, token, cut=wire, names=names)
    return TopClient(address, token, bottom=bottom_of(), top=top_of(), cut=wire, names=names)


def train_round(server: SplitServer, address: str) -> dict[int, dict[str, Tensor]]:
    tokens = server.open_round(Purpose.TRAIN, list(DATA))
    clients = {k: client_of(address, tokens[k], server.wire, k) for k in DATA}
    return at_once(lambda k: clients[k].train(DATA[k]), DATA)


@pytest.mark.parametrize("plain", [CUT, U_CUT], ids=["vanilla", "u-shaped"])
@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("codec", [Int8(), Flat()], ids=lambda c: type(c).__name__)
def test_the_ledger_is_the_length_of_what_crossed_and_both_channels_agree(
    serve_direct: Serve, serve_grpc: Serve, kind: type[UpdateRule], plain: Wire, codec: Codec
) -> None:
    """Break it: hand `DirectStream` the tensors of the boundary, not those of the codec."""
    wire = replace(plain, uplink=codec, downlink=codec, seed=9)
    over_grpc, direct = serving(kind, wire), serving(kind, wire)
    with CountingProxy(serve_grpc(over_grpc)) as counting:
        trained = train_round(over_grpc, counting.address)
        report = over_grpc.report()
    assert report.failures == {}
    assert report.num_examples == {0: 19, 4: 13}
    assert report.traffic == Traffic(counting.uplink_bytes, counting.downlink_bytes)
    sizes = {k: [len(labels) for _, labels in batches] for k, batches in DATA.items()}
    expected = [stream_traffic(wire, sizes[k]).traffic for k in DATA]
    assert report.traffic == sum(expected, Traffic())

    again = train_round(direct, serve_direct(direct))
    assert direct.report().traffic == report.traffic
    over_grpc.close_round(report.num_examples)
    direct.close_round(report.num_examples)
    assert_same_bits(weights_of(direct.server_part), weights_of(over_grpc.server_part))
    for k in DATA:
        assert_same_bits(again[k], trained[k])


class Seeds(Flat):
    """Records the seed of each frame that it encodes."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def encode(self, tensors: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        self.seeds.append(draw().initial_seed())
        return super().encode(tensors, draw)


def seeds_of(plain: Wire, participant: int, server_round: int) -> list[int]:
    """Return the seeds of all frames of two steps, by a participant in a round."""
    wire = replace(plain, uplink=Seeds(), downlink=Seeds())
    server = serving(PerParticipantCopies, wire)
    token = server.open_round(Purpose.TRAIN, [participant], server_round)[participant]
    stream = Straight(server.open(token))
    session = SplitSession(stream, wire, (Purpose.TRAIN, server_round, participant))
    for images, labels in batches_of(0, 8, 8):
        if wire.output is None:
            loss = session.train_step(bottom_of()(images), labels).loss
        else:
            loss = score(top_of()(session.trunk(bottom_of()(images))), labels).loss
        torch.autograd.backward(loss)
    server.close()
    assert isinstance(wire.uplink, Seeds)
    assert isinstance(wire.downlink, Seeds)
    return wire.uplink.seeds + wire.downlink.seeds


@pytest.mark.parametrize("plain", [CUT, U_CUT], ids=["vanilla", "u-shaped"])
def test_every_frame_of_a_run_has_a_seed_of_its_own(plain: Wire) -> None:
    """Break it: pack any kind of frame without the names of its stream, at either end."""
    streams = [(0, 1), (1, 1), (0, 2)]
    seeds = [seed for k, r in streams for seed in seeds_of(plain, k, r)]
    assert len(seeds) == len(streams) * 2 * (2 if plain.output is None else 4)
    assert len(set(seeds)) == len(seeds)
    assert seeds_of(plain, 0, 1) == seeds[: len(seeds) // 3]


@pytest.mark.parametrize("plain", [CUT, U_CUT], ids=["vanilla", "u-shaped"])
def test_training_through_a_codec_is_near_that_without_and_not_the_same(
    serve: Serve, plain: Wire
) -> None:
    """Break it: encode without decoding at the other end, or not at all."""
    results = []
    for codec in (IDENTITY, Flat(), Int8()):
        server = serving(InTurn, replace(plain, uplink=codec, downlink=codec))
        trained = train_round(server, serve(server))
        assert server.report().failures == {}
        results.append({**trained[0], **weights_of(server.server_part)})
    exact, flat, rounded = results
    assert_same_bits(flat, exact)
    assert_close(rounded, exact, atol=0.05)
    assert any(not torch.equal(rounded[name], exact[name]) for name in exact)


@pytest.mark.parametrize("wire", [TREE_CUT, U_TREE_CUT], ids=["vanilla", "u-shaped"])
def test_a_codec_sees_no_integers(wire: Wire) -> None:
    """Break it: give the codec every tensor."""
    seen: set[str] = set()

    class Watching(Flat):
        def packed(self, tensors: Mapping[str, TensorSpec], batch_size: int) -> dict[str, Packed]:
            seen.update(tensors)
            return super().packed(tensors, batch_size)

    watched = replace(wire, uplink=Watching(), downlink=Watching())
    frames = watched.step(2)
    assert seen
    assert "place" not in seen
    assert {"cut.note", "cut.all", "cut.place"} <= set(frames.uplink[0].tensors)


def test_scores_are_touched_by_no_codec() -> None:
    """Break it: encode loss and labels too."""
    scores: dict[str, Any] = {"loss": torch.tensor(0.123456789), "num_correct": torch.tensor(3)}
    frame = INT8.pack(Kind.EVALUATION, 0, {}, **scores)
    assert frame.tensors[LOSS] is scores["loss"]
    assert frame.tensors[NUM_CORRECT] is scores["num_correct"]
    assert INT8.unpack(frame, batch_size=2).state == {}


def test_a_codec_is_found_by_its_name() -> None:
    assert load_codec("none", key="codec.uplink") is IDENTITY
    for name in ("Int8", "make_int8"):
        found = load_codec(f"{make_int8.__module__}:{name}", key="codec.uplink")
        assert type(found) is Int8


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("int8", "codec.uplink = 'int8' does not name an object of a module"),
        ("tests.split.no_such:Int8", "cannot be imported"),
        ("tests.split.toy_codecs:NoSuch", "cannot be imported"),
        ("tests.split.toy_codecs:make_nothing", "is a NoneType"),
        ("tests.split.toy_codecs:fail_to_make", "cannot be made without arguments .*no table"),
        ("tests.split.toy_codecs:SCALE", "is a str. Name a class derived from .*Codec"),
    ],
)
def test_a_name_of_no_codec_is_refused_with_its_key(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_codec(name, key="codec.uplink")
