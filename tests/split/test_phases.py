"""Phases of a round: which exchange answers in each, and the rendezvous before round 1."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import nn

from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.client import attend_rendezvous
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.exchange import (
    EvaluationExchange,
    Exchange,
    NoExchange,
    TrainingExchange,
    TrunkExchange,
    UShapedExchange,
)
from fedsplit.split.lockstep import keep
from fedsplit.split.phases import EvaluationPhase, Phase, Purpose, RendezvousPhase, TrainingPhase
from fedsplit.split.server import SplitServer
from fedsplit.split.session import ServerSession
from fedsplit.split.wire import LABELS, Wire
from tests.split.reference import at_once
from tests.split.test_session import NotingRule
from tests.split.toys import (
    CUT,
    Client,
    Serve,
    assert_same_bits,
    batches_of,
    bottom_of,
    config_of,
    make_server,
    server_part_of,
    stream_to,
    wait_until,
    weights_of,
    wire_of,
)
from tests.split.ushaped import U_CUT

MakePhase = Callable[[PerParticipantCopies, Wire], Phase]


def training(rule: PerParticipantCopies, wire: Wire) -> Phase:
    return TrainingPhase(rule, wire, server_round=1, participants=[3], give_up=keep)


def evaluation(rule: PerParticipantCopies, wire: Wire) -> Phase:
    return EvaluationPhase(rule.server_part, wire, server_round=1)


FROZEN = wire_of(U_CUT.smashed.tensors, 5, 8, output=U_CUT.smashed.tensors, output_gradient=False)


@pytest.mark.parametrize(
    ("phase_of", "wire", "kind"),
    [
        (training, CUT, TrainingExchange),
        (training, U_CUT, UShapedExchange),
        (training, FROZEN, TrunkExchange),
        (evaluation, CUT, EvaluationExchange),
        (evaluation, U_CUT, TrunkExchange),
        (evaluation, FROZEN, TrunkExchange),
    ],
)
def test_each_phase_answers_as_its_topology_asks(
    phase_of: MakePhase, wire: Wire, kind: type[Exchange]
) -> None:
    rule = NotingRule(server_part_of())
    assert type(phase_of(rule, wire).exchange(3)) is kind
    rule.close()


@pytest.mark.parametrize("was_training", [True, False])
def test_a_phase_sets_the_mode_of_the_server_part(was_training: bool) -> None:
    """Break it: leave `train` or `eval` out; dropout then works in the wrong rounds."""
    rule = NotingRule(nn.Sequential(nn.Dropout(), server_part_of()))
    for phase_of, mode in ((training, True), (evaluation, False)):
        rule.server_part.train(was_training)
        phase_of(rule, CUT)
        assert {module.training for module in rule.server_part.modules()} == {mode}
    rule.close()


def test_a_training_phase_passes_every_event_on_to_the_rule() -> None:
    rule = NotingRule(server_part_of())
    phase = training(rule, CUT)
    for event in (phase.begin, phase.finish, phase.begin, phase.drop):
        event(3)
    phase.interrupt()
    assert rule.calls == ["begin", "finish", "begin", "drop"]
    rule.close()


def test_an_evaluation_phase_keeps_nothing_and_changes_nothing() -> None:
    part = server_part_of()
    before = weights_of(part)
    session = ServerSession(0, EvaluationPhase(part, CUT, server_round=1))
    session.open()
    batch = {"cut.hidden": torch.ones(2, 4), LABELS: torch.tensor([0, 1])}
    session.handle(Frame(Kind.SMASHED_DATA, 0, batch))
    session.close("gone")
    assert all(weight.grad is None for weight in part.parameters())
    assert_same_bits(weights_of(part), before)


def test_a_frame_of_another_kind_is_refused_before_its_tensors_are_read() -> None:
    """Break it: leave the kind out of `_received`; the wire has no payload of such a kind."""
    rule = NotingRule(server_part_of())
    for phase, wire in ((training, CUT), (evaluation, CUT), (training, U_CUT), (training, FROZEN)):
        for kind in set(Kind) - {Kind.SMASHED_DATA}:
            with pytest.raises(ChannelError, match=f"a {kind.name} frame with 1 tensors is not"):
                phase(rule, wire).exchange(3).answer(Frame(kind, 0, {"x": torch.ones(1)}))
    rule.close()


def attend(address: str, token: str) -> float:
    """Attend a rendezvous; return the time at which it ended for this client."""
    with stream_to(address, token) as stream:
        attend_rendezvous(stream)
    return time.monotonic()


def present(server: SplitServer) -> int:
    """Return how many have come and wait for the others."""
    return sum(session.uplink_messages == 1 for session in server.sessions.values())


def test_nobody_leaves_the_rendezvous_before_everybody_has_come(serve: Serve) -> None:
    """Break it: let `RendezvousPhase.finish` return at once."""
    server = make_server()
    address, before = serve(server), weights_of(server.server_part)
    tokens = server.open_round(Purpose.RENDEZVOUS, range(4))
    last = 0.0

    def come(k: int) -> float:
        nonlocal last
        if k == 3:
            wait_until(lambda: present(server) == 3)
            last = time.monotonic()
        return attend(address, tokens[k])

    left = at_once(come, range(4))
    assert min(left.values()) > last
    report = server.report()
    assert (report.failures, report.num_examples) == ({}, dict.fromkeys(range(4), 0))
    server.close_round(report.num_examples)
    assert_same_bits(weights_of(server.server_part), before)


def test_after_the_join_timeout_the_present_continue_and_the_absent_are_reported(
    serve: Serve,
) -> None:
    """Break it: wait in `finish` for the step timeout, or for ever."""
    server = make_server(config=config_of(channel_join_timeout=0.2, channel_step_timeout=60.0))
    address = serve(server)
    tokens = server.open_round(Purpose.RENDEZVOUS, range(5))
    started = time.monotonic()
    left = at_once(lambda k: attend(address, tokens[k]), [0, 2])
    assert min(left.values()) - started >= 0.2
    assert max(left.values()) - started < 5
    with pytest.raises(ChannelError, match="its round is over"):
        attend(address, tokens[4])  # too late
    report = server.report()
    assert sorted(report.num_examples) == [0, 2]
    assert sorted(report.failures) == [1, 3, 4]
    assert report.failures[1] == (
        "it never opened its stream: the others have waited for its first step for "
        "channel.join-timeout = 0.2 seconds"
    )


def test_a_participant_that_leaves_the_rendezvous_is_not_waited_for(serve: Serve) -> None:
    """Break it: do not leave the lockstep in `RendezvousPhase.drop`."""
    server = make_server()
    address = serve(server)
    tokens = server.open_round(Purpose.RENDEZVOUS, [0, 1])

    def come(k: int) -> float:
        if k == 0:
            return attend(address, tokens[0])
        wait_until(lambda: present(server) == 1)
        with stream_to(address, tokens[1]) as stream, pytest.raises(ChannelError, match="step 7"):
            stream.exchange(Frame(Kind.FINISH, 7))
        return time.monotonic()

    at_once(come, [0, 1])
    report = server.report()
    assert list(report.num_examples) == [0]
    assert list(report.failures) == [1]


def test_a_batch_is_refused_in_a_rendezvous(serve: Serve) -> None:
    server = make_server()
    address, before = serve(server), weights_of(server.server_part)
    tokens = server.open_round(Purpose.RENDEZVOUS, [0])
    with pytest.raises(ChannelError, match="nothing is trained in the rendezvous of the partici"):
        Client(address, tokens[0]).train(batches_of(0, 8))
    report = server.report()
    assert "nothing is trained" in report.failures[0]
    assert_same_bits(weights_of(server.server_part), before)
    exchange = RendezvousPhase([0], join_seconds=1.0, give_up=keep).exchange(0)
    assert isinstance(exchange, NoExchange)
    for kind in Kind:
        with pytest.raises(ChannelError, match="nothing is trained"):
            exchange.answer(Frame(kind, 0))
    assert (exchange.num_steps, exchange.num_examples) == (0, 0)


def test_the_end_of_a_rendezvous_wakes_everyone_who_waits(serve: Serve) -> None:
    """Break it: leave `RendezvousPhase.interrupt` empty."""
    server = make_server()
    address = serve(server)
    tokens = server.open_round(Purpose.RENDEZVOUS, range(3))

    def come(k: int) -> str:
        if k == 2:
            wait_until(lambda: present(server) == 2)
            return str(sorted(server.report().failures))
        with pytest.raises(ChannelError) as error:
            attend(address, tokens[k])
        return str(error.value)

    started = time.monotonic()
    assert at_once(come, range(3))[2] == "[0, 1, 2]"
    assert time.monotonic() - started < 5


def test_a_rendezvous_knows_who_waits_and_refuses_latecomers() -> None:
    """Break it: leave `require` out of `begin`; one given up would count as present."""
    given_up: list[int] = []
    phase = RendezvousPhase([0, 1, 2], join_seconds=0.3, give_up=lambda k, _: given_up.append(k))
    seen: list[frozenset[int]] = []

    def come(k: int) -> None:
        phase.begin(k)
        if k == 1:
            wait_until(lambda: phase.waiting == {0})
            seen.append(phase.waiting)
        phase.finish(k)

    at_once(come, [0, 1])
    assert seen == [{0}]
    assert phase.waiting == frozenset()
    assert given_up == [2]
    with pytest.raises(ChannelError, match="client 2 no longer takes part in the round"):
        phase.begin(2)


def _attend(address: str, tokens: Mapping[int, str], k: int) -> float:
    return attend(address, tokens[k])


def test_a_rendezvous_does_not_disturb_the_training_that_follows(serve: Serve) -> None:
    rounds = []
    for with_rendezvous in (True, False):
        server = make_server()
        address = serve(server)
        if with_rendezvous:
            tokens = server.open_round(Purpose.RENDEZVOUS, [0, 1])
            at_once(partial(_attend, address, tokens), [0, 1])
            server.close_round(server.report().num_examples)
        tokens = server.open_round(Purpose.TRAIN, [0, 1])
        for k in (0, 1):
            Client(address, tokens[k], bottom=bottom_of()).train(batches_of(k, 8, 3))
        server.close_round(server.report().num_examples)
        rounds.append(weights_of(server.server_part))
    assert_same_bits(*rounds)
