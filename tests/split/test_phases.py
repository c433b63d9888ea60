from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import pytest
import torch

from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.client import SplitSession
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.server import Purpose, SplitServer
from tests.split.reference import at_once
from tests.split.toys import (
    Client,
    Serve,
    assert_same_bits,
    batches_of,
    bottom_of,
    config_of,
    make_server,
    stream_to,
    wait_until,
    weights_of,
)


def meet(address: str, token: str) -> float:
    """Come to a meeting; return when it let one go."""
    with SplitSession(stream_to(address, token)) as session:
        session.finish()
    return time.monotonic()


def present(server: SplitServer) -> int:
    return len(server._meeting._lockstep._delivered)


def test_all_come_and_nobody_goes_before(serve: Serve) -> None:
    """Break it: let `Meeting.finish` return at once."""
    server = make_server()
    address, before = serve(server), weights_of(server.server_part)
    tokens = server.open_round(Purpose.RENDEZVOUS, range(4))
    last = 0.0

    def come(k: int) -> float:
        nonlocal last
        if k == 3:
            wait_until(lambda: present(server) == 3)
            last = time.monotonic()
        return meet(address, tokens[k])

    left = at_once(come, range(4))
    assert min(left.values()) > last
    report = server.report()
    assert (report.failures, report.num_examples) == ({}, dict.fromkeys(range(4), 0))
    server.close_round(report.num_examples)
    assert_same_bits(weights_of(server.server_part), before)


def test_too_few_go_after_the_join_timeout_and_the_report_says_who_did_not_come(
    serve: Serve,
) -> None:
    """Break it: wait in `finish` for the step timeout, or without end."""
    server = make_server(config=config_of(channel_join_timeout=0.2, channel_step_timeout=60.0))
    address = serve(server)
    tokens = server.open_round(Purpose.RENDEZVOUS, range(5))
    started = time.monotonic()
    left = at_once(lambda k: meet(address, tokens[k]), [0, 2])
    assert min(left.values()) - started >= 0.2
    assert max(left.values()) - started < 5
    with pytest.raises(ChannelError, match="client 4 no longer takes part"):
        meet(address, tokens[4])  # too late
    report = server.report()
    assert sorted(report.num_examples) == [0, 2]
    assert sorted(report.failures) == [1, 3, 4]
    assert report.failures[1] == "it never opened its stream"


def test_one_that_comes_and_goes_is_not_waited_for(serve: Serve) -> None:
    """Break it: do not leave the lockstep in `Meeting.drop`."""
    server = make_server()
    address = serve(server)
    tokens = server.open_round(Purpose.RENDEZVOUS, [0, 1])

    def come(k: int) -> float:
        if k == 0:
            return meet(address, tokens[0])
        wait_until(lambda: present(server) == 1)
        with stream_to(address, tokens[1]) as stream, pytest.raises(ChannelError, match="step 7"):
            stream.exchange(Frame(Kind.FINISH, 7))
        return time.monotonic()

    at_once(come, [0, 1])
    report = server.report()
    assert list(report.num_examples) == [0]
    assert list(report.failures) == [1]


def test_a_batch_is_refused(serve: Serve) -> None:
    server = make_server()
    address, before = serve(server), weights_of(server.server_part)
    tokens = server.open_round(Purpose.RENDEZVOUS, [0])
    with pytest.raises(ChannelError, match="in a meeting of the participants nothing is trained"):
        Client(address, tokens[0]).train(batches_of(0, 8))
    report = server.report()
    assert "nothing is trained" in report.failures[0]
    assert_same_bits(weights_of(server.server_part), before)
    rule = server._meeting
    with pytest.raises(ChannelError, match="nothing is trained"):
        rule.backward(0, torch.zeros(1))


def test_the_end_frees_all_who_wait(serve: Serve) -> None:
    server = make_server()
    address = serve(server)
    tokens = server.open_round(Purpose.RENDEZVOUS, range(3))

    def come(k: int) -> str:
        if k == 2:
            wait_until(lambda: present(server) == 2)
            return str(sorted(server.report().failures))
        with pytest.raises(ChannelError) as error:
            meet(address, tokens[k])
        return str(error.value)

    started = time.monotonic()
    assert at_once(come, range(3))[2] == "[0, 1, 2]"
    assert time.monotonic() - started < 5


def _come(address: str, tokens: Mapping[int, str], k: int) -> float:
    return meet(address, tokens[k])


def test_a_meeting_does_not_disturb_the_training_that_follows(serve: Serve) -> None:
    rounds = []
    for with_meeting in (True, False):
        server = make_server()
        assert isinstance(server.rule, PerParticipantCopies)
        address = serve(server)
        if with_meeting:
            tokens = server.open_round(Purpose.RENDEZVOUS, [0, 1])
            at_once(partial(_come, address, tokens), [0, 1])
            server.close_round(server.report().num_examples)
        tokens = server.open_round(Purpose.TRAIN, [0, 1])
        for k in (0, 1):
            Client(address, tokens[k], bottom=bottom_of()).train(batches_of(k, 8, 3))
        server.close_round(server.report().num_examples)
        rounds.append(weights_of(server.server_part))
    assert_same_bits(*rounds)
