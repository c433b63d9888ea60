"""Streams that die, wait or are ended, and the rest of their round."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch import Tensor, nn

from fedsplit.errors import ChannelError
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.phases import Purpose
from tests.split.rounds import BAD, GOOD, reference_round, train_good
from tests.split.toys import (
    Client,
    Serve,
    assert_close,
    assert_same_bits,
    batches_of,
    break_off,
    copies_in,
    expected_round,
    files_of,
    make_server,
    run_round,
    server_part_of,
    wait_until,
    weights_of,
)


@pytest.mark.parametrize("way", ["error", "leave", "cut"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_stream_that_dies_is_dropped_and_the_rest_is_correct(
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
            if way == "cut":
                break_off(dying.stream)

    with contextlib.suppress(KeyboardInterrupt):
        die()
    wait_until(lambda: BAD not in copies_in(server))
    wait_until(lambda: alive[0]() is None)
    Client(address, tokens[1]).train(GOOD[1])
    start = time.monotonic()
    report = server.report()
    server.close_round(report.num_examples)
    assert time.monotonic() - start < 10
    assert report.num_examples == {0: 19, 1: 9}
    assert list(report.failures) == [BAD]
    assert "before it had finished" in report.failures[BAD] or "ended early" in report.failures[BAD]
    assert_close(weights_of(server.server_part), reference_round(), atol=1e-7)
    assert files_of(server) == []


def test_a_silent_client_does_not_delay_the_end_of_the_round(serve: Serve) -> None:
    server = make_server()
    address = serve(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1, BAD])
    silent = Client(address, tokens[BAD])
    with silent.session:
        silent.step(batches_of(BAD, 8)[0])
        train_good(address, tokens)
        start = time.monotonic()
        report = server.report()
        server.close_round(report.num_examples)
        assert time.monotonic() - start < 10
        assert report.failures == {BAD: "it had not finished when the round ended"}
        assert copies_in(server) == {}
        with pytest.raises(ChannelError, match=r"round (is over|ended)"):
            silent.step(batches_of(BAD, 8)[0])
        after = weights_of(server.server_part)
        # The next round has the same participant, and ignores its old stream.
        tokens = server.open_round(Purpose.TRAIN, [BAD])
        with pytest.raises(ChannelError):
            silent.session.finish()
    assert_close(after, reference_round(), atol=1e-7)
    assert files_of(server) == []


class _HeldUp(nn.Module):
    """A server part whose steps can be held up; its copies share the switches."""

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
    # The server continues as usual.
    run_round(server, address, GOOD)


def test_progress_is_reported_by_one_thread_at_a_time(serve: Serve) -> None:
    server = make_server()
    address = serve(server)
    told: list[tuple[int, int, Purpose]] = []
    inside = threading.Lock()

    def tell(done: int, total: int, purpose: Purpose) -> None:
        assert inside.acquire(blocking=False)
        time.sleep(0.01)
        told.append((done, total, purpose))
        inside.release()

    tokens = server.open_round(Purpose.TRAIN, range(5), progress=tell)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: Client(address, tokens[k]).train(GOOD[0]), range(4)))
    assert [entry[1:] for entry in told] == [(5, Purpose.TRAIN)] * 4
    assert [entry[0] for entry in told] == sorted(entry[0] for entry in told)
    assert told[-1][0] == 4
    assert sorted(server.report().num_examples) == [0, 1, 2, 3]


def test_a_failing_progress_display_loses_no_work(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(done: int, total: int, purpose: Purpose) -> None:
        raise BrokenPipeError("nobody reads this")

    server = make_server()
    address = serve(server)
    run_round(server, address, GOOD, progress=fail)
    assert_close(weights_of(server.server_part), reference_round(), atol=1e-7)
    assert "The progress cannot be shown" in caplog.text


def test_a_new_round_ends_the_streams_of_an_unreported_one(serve: Serve) -> None:
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
    assert isinstance(server.rule, PerParticipantCopies)
    tokens = server.open_round(Purpose.TRAIN, [0, 1])
    Client(address, tokens[1]).train(GOOD[1])
    (file,) = server.rule.finished_files
    client = Client(address, tokens[0])
    with client.session:
        client.step(GOOD[0][0])
        server.close()
        with pytest.raises(ChannelError):
            client.step(GOOD[0][1])
    assert copies_in(server) == {}
    assert not file.parent.exists()
