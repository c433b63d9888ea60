"""What the split server refuses: illegal frames and tokens."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.phases import Purpose
from fedsplit.split.server import SplitServer
from fedsplit.split.totals import Work
from tests.split.rounds import BAD, GOOD, changed, good_frame, reference_round, spoiled
from tests.split.toys import (
    Client,
    Serve,
    assert_close,
    assert_same_bits,
    config_of,
    copies_in,
    files_of,
    make_server,
    stream_to,
    wait_until,
    weights_of,
)

# Each is the second frame of its client: step 1 is due.
REFUSED: dict[str, tuple[Frame, str]] = {
    "step repeated": (good_frame(0), "step 0 where step 1 was due"),
    "step skipped": (good_frame(2), "step 2 where step 1 was due"),
    "last step there is": (good_frame(2**32 - 1), "step 4294967295 where step 1 was due"),
    "finish of another step": (Frame(Kind.FINISH, 7), "step 7 where step 1 was due"),
    "gradient": (Frame(Kind.CUT_GRADIENT, 1, good_frame(1).tensors), "not legal at this point"),
    "evaluation": (Frame(Kind.EVALUATION, 1, good_frame(1).tensors), "not legal at this point"),
    "finished": (Frame(Kind.FINISHED, 1), "not legal at this point"),
    "finish with data": (Frame(Kind.FINISH, 1, good_frame(1).tensors), "not legal at this point"),
    "missing tensor": (changed(1, cut_hidden=None), "holds the tensors"),
    "missing labels": (changed(1, labels=None), "holds the tensors"),
    "extra tensor": (changed(1, cut_more=torch.ones(1)), "'cut.more'"),
    "no tensors": (Frame(Kind.SMASHED_DATA, 1), r"holds the tensors \[\]"),
    "width": (changed(1, cut_hidden=torch.ones(4, 3)), r"\[4, 3\], not torch.float32 \[4, 4\]"),
    "axes": (changed(1, cut_hidden=torch.ones(4, 4, 1)), r"\[4, 4, 1\]"),
    "other batch": (changed(1, cut_hidden=torch.ones(3, 4)), r"\[3, 4\]"),
    "float64": (changed(1, cut_hidden=torch.ones(4, 4).double()), "as torch.float64"),
    "float16": (changed(1, cut_hidden=torch.ones(4, 4).half()), "as torch.float16"),
    "int labels": (changed(1, labels=torch.ones(4, dtype=torch.int32)), "labels of torch.int32"),
    "labels by two": (changed(1, labels=torch.ones(4, 1).long()), r"torch.int64 \[4, 1\]"),
    "label 5": (changed(1, labels=torch.tensor([0, 1, 5, 0])), "labels from 0 to 5, not 0 to 4"),
    "label -1": (changed(1, labels=torch.tensor([0, 1, -1, 0])), "labels from -1 to 1"),
    "too few labels": (changed(1, labels=torch.tensor([0, 1])), r"\[4, 4\], not"),
    "no examples": (
        changed(1, cut_hidden=torch.ones(0, 4), labels=torch.ones(0).long()),
        "has 0 examples, not 1 to 8",
    ),
    "NaN": (changed(1, cut_hidden=spoiled(float("nan"))), "NaN or infinity in 'cut.hidden'"),
    "infinity": (changed(1, cut_hidden=spoiled(float("inf"))), "NaN or infinity"),
    "minus infinity": (changed(1, cut_hidden=spoiled(-float("inf"))), "NaN or infinity"),
    "batch too large": (
        good_frame(1, size=9),
        "(has 9 examples, not 1 to 8|larger than max)",
    ),
    "far too large": (
        good_frame(1, size=2000),
        "(has 2000 examples, not 1 to 8|larger than max)",
    ),
    "names without end": (
        Frame(Kind.SMASHED_DATA, 1, {f"t{n}": torch.ones(0) for n in range(4)}),
        "holds the tensors",
    ),
}


@pytest.mark.parametrize(("frame", "words"), REFUSED.values(), ids=REFUSED)
def test_a_bad_frame_is_refused_and_changes_nothing(serve: Serve, frame: Frame, words: str) -> None:
    server = make_server()
    address = serve(server)
    before = weights_of(server.server_part)
    tokens = server.open_round(Purpose.TRAIN, [0, 1, BAD])
    first = Client(address, tokens[0])
    with first.session:
        first.step(GOOD[0][0])
        with stream_to(address, tokens[BAD]) as bad:
            bad.exchange(good_frame(0))
            others = weights_of(copies_in(server)[0])
            with pytest.raises(ChannelError, match=words):
                bad.exchange(frame)
            wait_until(lambda: BAD not in copies_in(server))
            assert_same_bits(weights_of(server.server_part), before)
            assert_same_bits(weights_of(copies_in(server)[0]), others)
            with pytest.raises(ChannelError):  # the stream is over
                bad.exchange(good_frame(1))
        for batch in GOOD[0][1:]:
            first.step(batch)
        first.session.finish()
    Client(address, tokens[1]).train(GOOD[1])
    assert files_of(server) == ["0.safetensors", "1.safetensors"]
    report = server.report()
    assert report.num_examples == {0: 19, 1: 9}
    assert list(report.failures) == [BAD]
    assert_same_bits(weights_of(server.server_part), before)
    server.close_round(report.num_examples)
    assert_close(weights_of(server.server_part), reference_round(), atol=1e-7)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([4, 4, 4], r"4 examples follows 8 in 2 batches: the 8 images .* 8 in 2 a round"),
        ([1, 1, 1], "1 examples follows 2 in 2 batches"),  # more steps, with fewer examples
        ([4, 5], "5 examples follows 4 in 1 batches"),
    ],
)
@pytest.mark.parametrize("purpose", [Purpose.TRAIN, Purpose.EVALUATE])
def test_more_work_than_the_clients_images_make_is_refused(
    serve: Serve, sizes: list[int], words: str, purpose: Purpose
) -> None:
    """Break it: bound the examples only, and batches of one each take as many steps."""
    server = make_server()
    address = serve(server)
    tokens = server.open_round(purpose, [0, BAD], work={BAD: Work.of(8, 4), 0: Work.of(100, 4)})
    with stream_to(address, tokens[BAD]) as bad:
        for step, size in enumerate(sizes[:-1]):
            bad.exchange(good_frame(step, size=size))
        with pytest.raises(ChannelError, match=words):
            bad.exchange(good_frame(len(sizes) - 1, size=sizes[-1]))
    assert list(server.report().failures) == [0, BAD]


def test_the_reason_of_a_refusal_is_reported(serve: Serve) -> None:
    server = make_server()
    token = server.open_round(Purpose.TRAIN, [BAD])[BAD]
    with stream_to(serve(server), token) as bad, pytest.raises(ChannelError):
        bad.exchange(good_frame(1))
    wait_until(lambda: not copies_in(server))
    assert "step 1 where step 0 was due" in server.report().failures[BAD]


def test_a_divergence_is_refused_and_changes_nothing(serve: Serve) -> None:
    part = nn.Linear(4, 5)
    with torch.no_grad():
        part.weight.fill_(1e30).mul_(torch.arange(1.0, 6.0).unsqueeze(1))
    server = make_server(server_part=part)
    before = weights_of(part)
    token = server.open_round(Purpose.TRAIN, [BAD])[BAD]
    with (
        stream_to(serve(server), token) as stream,
        pytest.raises(ChannelError, match=r"Training diverged: the loss of a batch is (nan|inf)"),
    ):
        stream.exchange(changed(0, cut_hidden=torch.full((4, 4), 1e30)))
    report = server.report()
    assert report.num_examples == {}
    server.close_round(report.num_examples)
    assert_same_bits(weights_of(part), before)


def test_a_last_step_that_diverges_does_not_reach_the_average(serve: Serve) -> None:
    """The loss is finite, the sum of the weights' gradients is not, and the client finishes."""
    part = nn.Linear(4, 5)
    with torch.no_grad():
        part.weight.zero_()
    server = make_server(server_part=part, config=config_of(learning_rate=1000.0))
    token = server.open_round(Purpose.TRAIN, [BAD])[BAD]
    with stream_to(serve(server), token) as stream:
        stream.exchange(
            changed(0, cut_hidden=torch.full((4, 4), 3e38), labels=torch.zeros(4).long())
        )
        assert not copies_in(server)[BAD].get_parameter("weight").isfinite().all()
        with pytest.raises(ChannelError, match="Training diverged: client 2's copy"):
            stream.exchange(Frame(Kind.FINISH, 1))
    report = server.report()
    assert report.num_examples == {}
    assert "diverged" in report.failures[BAD]
    assert files_of(server) == []


def _tokens(server: SplitServer, which: str, tokens: Mapping[int, str]) -> str:
    return {
        "wrong": "x" * 43,
        "empty": "",
        "almost": tokens[BAD][:-1],
        "twice": tokens[0],
        "of a finished stream": tokens[1],
        "earlier": _earlier[id(server)],
    }[which]


_earlier: dict[int, str] = {}


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("wrong", "token belongs to no participant of the open round"),
        ("empty", "token belongs to no participant of the open round"),
        ("almost", "token belongs to no participant of the open round"),
        ("of a finished stream", "token of client 1 has been used|session of this token has ended"),
        ("earlier", "token belongs to no participant of the open round"),
    ],
)
def test_a_wrong_token_is_refused_and_changes_nothing(serve: Serve, which: str, words: str) -> None:
    server = make_server()
    address = serve(server)
    _earlier[id(server)] = server.open_round(Purpose.TRAIN, [BAD])[BAD]
    server.report()
    before = weights_of(server.server_part)
    tokens = server.open_round(Purpose.TRAIN, [0, 1, BAD])
    assert len(set(tokens.values())) == 3
    Client(address, tokens[1]).train(GOOD[1])
    first = Client(address, tokens[0])
    with first.session:
        first.step(GOOD[0][0])
        others = weights_of(copies_in(server)[0])
        with (
            pytest.raises(ChannelError, match=words),
            stream_to(address, _tokens(server, which, tokens)) as intruder,
        ):
            intruder.exchange(good_frame(0))
        assert_same_bits(weights_of(server.server_part), before)
        assert_same_bits(weights_of(copies_in(server)[0]), others)
        for batch in GOOD[0][1:]:
            first.step(batch)
        first.session.finish()
    report = server.report()
    assert report.num_examples == {0: 19, 1: 9}
    assert report.failures == {BAD: "it never opened its stream"}
    server.close_round(report.num_examples)
    assert_close(weights_of(server.server_part), reference_round(), atol=1e-7)


def test_a_second_stream_of_one_token_is_refused_without_a_wire() -> None:
    """Over gRPC it continues the session of the first: tests/channel/test_reconnect.py."""
    server = make_server()
    tokens = server.open_round(Purpose.TRAIN, [0])
    server.open(tokens[0])
    with pytest.raises(ChannelError, match="token of client 0 has been used already"):
        server.open(tokens[0])


def test_no_token_opens_a_stream_after_the_report(serve: Serve) -> None:
    server = make_server()
    address = serve(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1])
    Client(address, tokens[0]).train(GOOD[0])
    server.report()
    for token in tokens.values():
        with (
            pytest.raises(
                ChannelError,
                match=r"no participant of the open round|session of this token has ended",
            ),
            stream_to(address, token) as late,
        ):
            late.exchange(good_frame(0))
    assert copies_in(server) == {}
