from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import torch
from torch import Tensor, nn

from fedsplit.channel.codec import encode
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.ledger import Traffic
from fedsplit.errors import ChannelError
from fedsplit.split.server import Purpose, SplitServer
from tests.channel.hosts import CountingProxy, RawStream
from tests.split.toys import (
    CUT,
    Client,
    Serve,
    Weights,
    assert_close,
    assert_same_bits,
    batches_of,
    bottom_of,
    config_of,
    copies_in,
    expected_round,
    files_of,
    make_server,
    run_round,
    server_part_of,
    smashed_frame,
    stream_to,
    wait_until,
    weights_of,
)

GOOD = {0: batches_of(0, 8, 8, 3), 1: batches_of(1, 8, 1)}
BAD = 2


def good_frame(step: int, *, size: int = 4) -> Frame:
    images, labels = batches_of(BAD, size)[0]
    with torch.no_grad():
        return smashed_frame(step, bottom_of()(images), labels)


def changed(step: int, **tensors: Tensor | None) -> Frame:
    merged: dict[str, Tensor | None] = {**good_frame(step).tensors}
    merged.update({name.replace("_", "."): tensor for name, tensor in tensors.items()})
    kept = {name: tensor for name, tensor in merged.items() if tensor is not None}
    return Frame(Kind.SMASHED_DATA, step, kept)


def spoiled(value: float) -> Tensor:
    tensor = torch.ones(4, 4)
    tensor[2, 3] = value
    return tensor


def reference_round() -> Weights:
    return expected_round(GOOD)


def _train_good(address: str, tokens: Mapping[int, str]) -> None:
    for participant, batches in GOOD.items():
        Client(address, tokens[participant]).train(batches)


# Each is the second frame of its client: step 1 is due.
REFUSED: dict[str, tuple[Frame, str]] = {
    "step repeated": (good_frame(0), "step 0 where step 1 was due"),
    "step skipped": (good_frame(2), "step 2 where step 1 was due"),
    "last step there is": (good_frame(2**32 - 1), "step 4294967295 where step 1 was due"),
    "finish of another step": (Frame(Kind.FINISH, 7), "step 7 where step 1 was due"),
    "gradient": (Frame(Kind.CUT_GRADIENT, 1, good_frame(1).tensors), "not what a client sends"),
    "evaluation": (Frame(Kind.EVALUATION, 1, good_frame(1).tensors), "not what a client sends"),
    "finished": (Frame(Kind.FINISHED, 1), "not what a client sends"),
    "finish with data": (Frame(Kind.FINISH, 1, good_frame(1).tensors), "not what a client sends"),
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
        "has 0 examples, not 1 to batch-size = 8",
    ),
    "NaN": (changed(1, cut_hidden=spoiled(float("nan"))), "NaN or infinity in 'cut.hidden'"),
    "infinity": (changed(1, cut_hidden=spoiled(float("inf"))), "NaN or infinity"),
    "minus infinity": (changed(1, cut_hidden=spoiled(-float("inf"))), "NaN or infinity"),
    "batch too large": (
        good_frame(1, size=9),
        "(has 9 examples, not 1 to batch-size = 8|larger than max)",
    ),
    "far too large": (
        good_frame(1, size=2000),
        "(has 2000 examples, not 1 to batch-size = 8|larger than max)",
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
            with pytest.raises(ChannelError):  # ... and the stream is over
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
        ("twice", "token of client 0 has been used already"),
        ("of a finished stream", "token of client 1 has been used already"),
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


def test_no_token_opens_a_stream_after_the_report(serve: Serve) -> None:
    server = make_server()
    address = serve(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1])
    Client(address, tokens[0]).train(GOOD[0])
    server.report()
    for token in tokens.values():
        with (
            pytest.raises(ChannelError, match="belongs to no participant of the open round"),
            stream_to(address, token) as late,
        ):
            late.exchange(good_frame(0))
    assert copies_in(server) == {}


@pytest.mark.parametrize("way", ["error", "leave", "cut"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_stream_that_dies_is_dropped_and_the_rest_is_right(
    serve: Serve, way: str, steps: int
) -> None:
    server = make_server()
    address = serve(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1, BAD])
    Client(address, tokens[0]).train(GOOD[0])
    dying = Client(address, tokens[BAD])
    alive: list[weakref.ref[nn.Module]] = []
    batches = batches_of(BAD, 8, 8, 8)

    def die() -> None:
        with dying.session:
            for batch in batches[:steps]:
                dying.step(batch)
            wait_until(lambda: BAD in copies_in(server))
            alive.append(weakref.ref(copies_in(server)[BAD]))
            if way == "error":
                raise KeyboardInterrupt
            if way == "cut" and hasattr(dying.session._stream, "_channel"):
                dying.session._stream._channel.close()

    with contextlib.suppress(KeyboardInterrupt):
        die()
    wait_until(lambda: BAD not in copies_in(server))
    wait_until(lambda: alive[0]() is None)
    Client(address, tokens[1]).train(GOOD[1])
    start = time.monotonic()
    report = server.report()
    server.close_round(report.num_examples)
    assert time.monotonic() - start < 3
    assert report.num_examples == {0: 19, 1: 9}
    assert list(report.failures) == [BAD]
    assert "before it had finished" in report.failures[BAD] or "broke off" in report.failures[BAD]
    assert_close(weights_of(server.server_part), reference_round(), atol=1e-7)
    assert files_of(server) == []


def test_a_client_that_says_nothing_more_does_not_hold_the_round_up(serve: Serve) -> None:
    server = make_server()
    address = serve(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1, BAD])
    silent = Client(address, tokens[BAD])
    with silent.session:
        silent.step(batches_of(BAD, 8)[0])
        _train_good(address, tokens)
        start = time.monotonic()
        report = server.report()
        server.close_round(report.num_examples)
        assert time.monotonic() - start < 3
        assert report.failures == {BAD: "it had not finished when the round ended"}
        assert copies_in(server) == {}
        with pytest.raises(ChannelError, match=r"round (is over|ended)"):
            silent.step(batches_of(BAD, 8)[0])
        after = weights_of(server.server_part)
        # The next round has the same participant, and nothing of the old stream in it.
        tokens = server.open_round(Purpose.TRAIN, [BAD])
        with pytest.raises(ChannelError):
            silent.session.finish()
    assert_close(after, reference_round(), atol=1e-7)
    assert files_of(server) == []


class _HeldUp(nn.Module):
    """A server part in which a step can be held up; its copies share the switches."""

    entered, go_on = threading.Event(), threading.Event()

    def __init__(self) -> None:
        super().__init__()
        self.part = server_part_of()

    def forward(self, x: Tensor) -> Tensor:
        self.entered.set()
        assert self.go_on.wait(10)
        logits: Tensor = self.part(x)
        return logits


def test_report_in_the_middle_of_a_step(serve: Serve) -> None:
    part = _HeldUp()
    part.go_on.set()
    server = make_server(server_part=part)
    address = serve(server)
    tokens = server.open_round(Purpose.TRAIN, [0, BAD])
    Client(address, tokens[0]).train(GOOD[0])
    before = weights_of(part)
    client = Client(address, tokens[BAD])
    failed: list[str] = []

    def work() -> None:
        try:
            client.train(batches_of(BAD, 8, 8, 8))
        except ChannelError as error:
            failed.append(str(error))

    with ThreadPoolExecutor(2) as pool:
        part.go_on.clear()
        part.entered.clear()
        pool.submit(work)
        assert part.entered.wait(5)
        report = pool.submit(server.report)
        time.sleep(0.1)
        assert not report.done()  # it waits for the step, so that nothing changes behind it
        part.go_on.set()
        assert report.result(5).num_examples == {0: 19}
        assert report.result(5).failures == {BAD: "it had not finished when the round ended"}
        assert copies_in(server) == {}
    assert len(failed) == 1
    assert_same_bits(weights_of(part), before)
    server.close_round({0: 19})
    assert files_of(server) == []
    # The server goes on as if nothing had been.
    run_round(server, address, GOOD)


def test_progress_is_told_by_one_thread_at_a_time(serve: Serve) -> None:
    server = make_server()
    address = serve(server)
    told: list[tuple[int, int, Purpose]] = []
    inside = threading.Lock()

    def tell(done: int, total: int, purpose: Purpose) -> None:
        assert inside.acquire(blocking=False)
        time.sleep(0.01)
        told.append((done, total, purpose))
        inside.release()

    server.progress = tell
    tokens = server.open_round(Purpose.TRAIN, range(5))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: Client(address, tokens[k]).train(GOOD[0]), range(4)))
    assert [entry[1:] for entry in told] == [(5, Purpose.TRAIN)] * 4
    assert [entry[0] for entry in told] == sorted(entry[0] for entry in told)
    assert told[-1][0] == 4
    assert sorted(server.report().num_examples) == [0, 1, 2, 3]


def test_a_display_that_fails_costs_nobody_its_work(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(done: int, total: int, purpose: Purpose) -> None:
        raise BrokenPipeError("nobody reads this")

    server = make_server()
    server.progress = fail
    address = serve(server)
    run_round(server, address, GOOD)
    assert_close(weights_of(server.server_part), reference_round(), atol=1e-7)
    assert "The progress cannot be shown" in caplog.text


def test_a_new_round_ends_streams_of_one_that_was_not_reported(serve: Serve) -> None:
    server = make_server()
    address = serve(server)
    stale = Client(address, server.open_round(Purpose.TRAIN, [0])[0])
    with stale.session:
        stale.step(GOOD[0][0])
        token = server.open_round(Purpose.TRAIN, [0])[0]
        assert copies_in(server) == {}
        with pytest.raises(ChannelError):
            stale.session.finish()
    Client(address, token).train(GOOD[0])
    report = server.report()
    assert report.num_examples == {0: 19}
    server.close_round(report.num_examples)
    assert_close(weights_of(server.server_part), expected_round({0: GOOD[0]}), atol=1e-7)


def test_closing_the_server_ends_everything(serve: Serve) -> None:
    server = make_server()
    address = serve(server)
    client = Client(address, server.open_round(Purpose.TRAIN, [0])[0])
    with client.session:
        client.step(GOOD[0][0])
        folder = Path(str(server._rule._finished))  # type: ignore[attr-defined]
        server.close()
        with pytest.raises(ChannelError):
            client.step(GOOD[0][1])
    assert copies_in(server) == {}
    assert not folder.exists()


def _train_all(server: SplitServer, address: str, *, threads: int) -> tuple[Weights, list[Weights]]:
    bottoms: list[Weights] = []
    sizes = {k: (8,) * (k + 2) + (k + 1,) for k in range(4)}
    for server_round in range(2):
        tokens = server.open_round(Purpose.TRAIN, range(4))

        def train(k: int, tokens: Mapping[int, str] = tokens, add: int = server_round) -> Weights:
            return Client(address, tokens[k]).train(batches_of(k + 10 * add, *sizes[k]))

        with ThreadPoolExecutor(threads) as pool:
            bottoms += pool.map(train, range(4))
        report = server.report()
        assert report.failures == {}
        server.close_round(report.num_examples)
    return weights_of(server.server_part), bottoms


def test_four_at_once_give_the_bits_of_one_after_the_other(
    serve_direct: Serve, serve_grpc: Serve
) -> None:
    results = []
    for serve in (serve_direct, serve_grpc):
        for threads in (1, 4):
            server = make_server()
            results.append(_train_all(server, serve(server), threads=threads))
    for part, bottoms in results[1:]:
        assert_same_bits(part, results[0][0])
        for one, other in zip(bottoms, results[0][1], strict=True):
            assert_same_bits(one, other)


def test_a_crowd_of_good_and_bad_ones(serve: Serve) -> None:
    """Eight at once, half of which fail in the middle: no deadlock, and the right average."""
    server = make_server()
    address = serve(server)
    tokens = server.open_round(Purpose.TRAIN, range(8))
    data = {k: batches_of(k, 8, 8, k + 1) for k in range(8)}

    def work(k: int) -> None:
        client = Client(address, tokens[k])
        if k % 2 == 0:
            client.train(data[k])
            return
        with client.session:
            client.step(data[k][0])
            if k > 1:  # client 1 only leaves
                with pytest.raises(ChannelError, match="was due"):
                    client.session._stream.exchange(good_frame(k))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    report = server.report()
    assert report.num_examples == {k: 17 + k for k in (0, 2, 4, 6)}
    assert sorted(report.failures) == [1, 3, 5, 7]
    server.close_round(report.num_examples)
    expected = expected_round({k: data[k] for k in (0, 2, 4, 6)})
    assert_close(weights_of(server.server_part), expected, atol=1e-7)


def _play(address: str, tokens: Mapping[int, str]) -> None:
    """Two good clients, one that is refused, one that dies."""
    _train_good(address, tokens)
    with stream_to(address, tokens[2]) as stream:
        stream.exchange(good_frame(0))
        with pytest.raises(ChannelError):
            stream.exchange(good_frame(5))
    with stream_to(address, tokens[3]) as stream:
        stream.exchange(good_frame(0))


def test_the_report_holds_what_crossed_the_wire(serve_grpc: Serve, serve_direct: Serve) -> None:
    server = make_server()
    with CountingProxy(serve_grpc(server)) as wire:
        _play(wire.address, server.open_round(Purpose.TRAIN, range(4)))
        wait_until(lambda: not copies_in(server))
        report = server.report()
    seen = Traffic(wire.uplink_bytes, wire.downlink_bytes)
    assert wire.messages == 3 + 1 + 2 + 1 + 2 + 1
    assert report.traffic == seen
    direct = make_server()
    address = serve_direct(direct)
    _play(address, direct.open_round(Purpose.TRAIN, range(4)))
    assert direct.report().traffic == seen


def test_evaluation_is_in_the_ledger_too(serve_grpc: Serve) -> None:
    server = make_server()
    with CountingProxy(serve_grpc(server)) as wire:
        token = server.open_round(Purpose.EVALUATE, [0])[0]
        client = Client(wire.address, token)
        with client.session:
            for images, labels in GOOD[0]:
                client.session.evaluate_step(client.bottom(images), labels)
            client.session.finish()
        assert server.report().traffic == Traffic(wire.uplink_bytes, wire.downlink_bytes)
    assert wire.downlink_bytes < wire.uplink_bytes


def test_each_round_has_a_ledger_of_its_own(serve: Serve) -> None:
    server = make_server()
    address = serve(server)
    traffic = []
    for _ in range(2):
        tokens = server.open_round(Purpose.TRAIN, [0])
        Client(address, tokens[0]).train(GOOD[0])
        traffic.append(server.report().traffic)
    assert traffic[0] == traffic[1]
    assert server.report().traffic == Traffic()


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xff", b"\x80\x04\x95pickle", encode(good_frame(0))[:-3], b"\x10\x09"],
    ids=["empty", "junk", "pickle", "truncated", "kind 9"],
)
def test_bytes_that_are_no_frame_change_nothing(serve_grpc: Serve, data: bytes) -> None:
    server = make_server()
    address = serve_grpc(server)
    before = weights_of(server.server_part)
    tokens = server.open_round(Purpose.TRAIN, [0, BAD])
    with RawStream(address, tokens[BAD]) as raw:
        raw.exchange(encode(good_frame(0)))
        with pytest.raises(grpc.RpcError):
            raw.exchange(data)
        assert "is not a frame of this channel" in raw.call.details()
    wait_until(lambda: not copies_in(server))
    assert_same_bits(weights_of(server.server_part), before)
    Client(address, tokens[0]).train(GOOD[0])
    report = server.report()
    assert report.num_examples == {0: 19}
    server.close_round(report.num_examples)
    assert_close(weights_of(server.server_part), expected_round({0: GOOD[0]}), atol=1e-7)


def test_a_server_part_that_fails_drops_its_client_only(serve_grpc: Serve) -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = server_part_of()

        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 7:
                raise RuntimeError("seven is too many")
            logits: Tensor = self.part(x)
            return logits

    server = make_server(server_part=Fragile())
    address = serve_grpc(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1])
    with pytest.raises(ChannelError, match=r"split server failed: RuntimeError.*seven"):
        Client(address, tokens[1]).train(batches_of(1, 8, 7))
    Client(address, tokens[0]).train(GOOD[0])
    report = server.report()
    assert report.num_examples == {0: 19}
    assert "seven is too many" in report.failures[1]


_DOOMED = """
import sys
from fedsplit.split.server import Purpose
from tests.split.toys import Client, batches_of
client = Client(sys.argv[1], sys.argv[2])
with client.session:
    while True:
        for batch in batches_of(2, 8, 8, 8):
            client.step(batch)
            print("step", flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_is_dropped(serve_grpc: Serve) -> None:
    server = make_server()
    address = serve_grpc(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1, BAD])
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", _DOOMED, address, tokens[BAD]],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        for _ in range(5):
            assert process.stdout.readline() == b"step\n"
        assert BAD in copies_in(server)
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: BAD not in copies_in(server))
    finally:
        process.kill()
        process.communicate()
    _train_good(address, tokens)
    start = time.monotonic()
    report = server.report()
    server.close_round(report.num_examples)
    assert time.monotonic() - start < 3
    assert report.num_examples == {0: 19, 1: 9}
    assert report.failures == {BAD: "the client's stream broke off"}
    assert_close(weights_of(server.server_part), reference_round(), atol=1e-7)


def test_no_thread_is_left_of_a_round(serve_grpc: Serve) -> None:
    before = set(threading.enumerate())
    server = make_server()
    address = serve_grpc(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1, 2, 3])
    _play(address, tokens)
    server.report()
    kept = ("fedsplit-stream", "Thread-")  # the channel's, until it is closed
    wait_until(
        lambda: all(t.name.startswith(kept) for t in threading.enumerate() if t not in before)
    )


def test_max_frame_bytes_is_the_cuts() -> None:
    server = make_server()
    assert server.max_frame_bytes == CUT.max_frame_bytes
    server.close()
