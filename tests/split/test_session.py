from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from fedsplit.boundary import State, TensorSpec
from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.lockstep import keep
from fedsplit.split.phases import EvaluationPhase, TrainingPhase
from fedsplit.split.session import ServerSession
from fedsplit.split.steps import StepResult, evaluate_step
from fedsplit.split.wire import LABELS, LOSS, NUM_CORRECT, Wire
from tests.split.toys import (
    CUT,
    TREE_CUT,
    TreeBottom,
    assert_same_bits,
    batches_of,
    bottom_of,
    server_part_of,
    settings_of,
    smashed_frame,
    wait_until,
    weights_of,
    wire_of,
)


class NotingRule(PerParticipantCopies):
    """Records its calls, and can be held up in the middle of a step."""

    def __init__(self, server_part: nn.Module) -> None:
        super().__init__(server_part, settings_of())
        self.calls: list[str] = []
        self.stepping, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def begin(self, participant: int) -> None:
        self.calls.append("begin")
        super().begin(participant)

    def step(self, participant: int, smashed: State, labels: Tensor) -> tuple[StepResult, State]:
        self.stepping.set()
        assert self.go_on.wait(10)
        self.calls.append("step")
        return super().step(participant, smashed, labels)

    def finish(self, participant: int) -> None:
        self.stepping.set()
        assert self.go_on.wait(10)
        self.calls.append("finish")
        super().finish(participant)

    def drop(self, participant: int) -> None:
        self.calls.append("drop")
        super().drop(participant)


@pytest.fixture
def rule() -> Iterator[NotingRule]:
    rule = NotingRule(server_part_of())
    yield rule
    rule.close()


def session_of(rule: NotingRule, *, wire: Wire = CUT) -> ServerSession:
    phase = TrainingPhase(rule, wire, server_round=1, participants=[3], give_up=keep)
    return ServerSession(3, phase)


def evaluating(server_part: nn.Module, wire: Wire = CUT) -> ServerSession:
    return ServerSession(3, EvaluationPhase(server_part, wire, server_round=1))


def good_frame(step: int, size: int = 4) -> Frame:
    images, labels = batches_of(3, size)[0]
    with torch.no_grad():
        return smashed_frame(step, bottom_of()(images), labels)


FINISH = Frame(Kind.FINISH, 1)


def test_a_whole_session(rule: NotingRule) -> None:
    session = session_of(rule)
    assert (session.finished, session.failure) == (False, "it never opened its stream")
    session.open()
    answer = session.handle(good_frame(0))
    assert (answer.kind, answer.step) == (Kind.CUT_GRADIENT, 0)
    assert set(answer.tensors) == {"cut.hidden", LOSS, NUM_CORRECT}
    assert answer.tensors["cut.hidden"].shape == (4, 4)
    assert not answer.tensors[LOSS].requires_grad
    assert (session.num_examples, session.finished) == (4, False)
    done = session.handle(FINISH)
    assert (done.kind, done.step, dict(done.tensors)) == (Kind.FINISHED, 1, {})
    assert (session.num_examples, session.finished) == (4, True)
    assert (session.uplink_messages, session.downlink_messages) == (2, 2)
    session.close("too late to matter")
    session.revoke()
    assert session.finished
    assert rule.calls == ["begin", "step", "finish"]


def test_time_and_messages_of_a_session(rule: NotingRule) -> None:
    """Break it: count the answer before there is one, or start the clock when the step is done."""
    session = session_of(rule)
    session.open()
    rule.go_on.clear()
    threading.Timer(0.2, rule.go_on.set).start()
    session.handle(good_frame(0))
    assert 0.15 < session.answer_seconds < 5
    with pytest.raises(ChannelError):
        session.handle(good_frame(7))
    assert (session.uplink_messages, session.downlink_messages) == (2, 1)


def test_an_evaluation_answers_scores_only() -> None:
    server_part = server_part_of().eval()
    before = weights_of(server_part)
    session = evaluating(server_part)
    session.open()
    frame = good_frame(0)
    answer = session.handle(frame)
    assert (answer.kind, set(answer.tensors)) == (Kind.EVALUATION, {LOSS, NUM_CORRECT})
    expected = evaluate_step(server_part, frame.tensors["cut.hidden"], frame.tensors[LABELS])
    assert torch.equal(answer.tensors[LOSS], expected.loss)
    assert torch.equal(answer.tensors[NUM_CORRECT], expected.num_correct)
    assert session.handle(FINISH).kind is Kind.FINISHED
    assert_same_bits(weights_of(server_part), before)


def test_a_token_opens_one_stream(rule: NotingRule) -> None:
    session = session_of(rule)
    session.open()
    with pytest.raises(ChannelError, match="token of client 3 has been used already"):
        session.open()
    assert session.handle(good_frame(0)).kind is Kind.CUT_GRADIENT  # the first is not disturbed
    session.close("gone")
    with pytest.raises(ChannelError, match="used already"):
        session.open()
    assert rule.calls == ["begin", "step", "drop"]


def test_nothing_is_handled_before_opening(rule: NotingRule) -> None:
    with pytest.raises(ChannelError, match="session is closed"):
        session_of(rule).handle(good_frame(0))
    assert rule.calls == []


def test_nothing_is_handled_after_the_end(rule: NotingRule) -> None:
    session = session_of(rule)
    session.open()
    session.handle(Frame(Kind.FINISH, 0))
    for frame in (good_frame(0), good_frame(1), Frame(Kind.FINISH, 0), Frame(Kind.FINISH, 1)):
        with pytest.raises(ChannelError, match=r"closed \(it has finished\)"):
            session.handle(frame)
    assert session.finished
    assert rule.calls == ["begin", "finish"]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (good_frame(0), "step 0 where step 1 was due"),
        (good_frame(2), "step 2 where step 1 was due"),
        (good_frame(1, size=9), "9 examples, not 1 to 8"),
        (Frame(Kind.FINISH, 0), "FINISH .* step 0 where step 1 was due"),
        (
            Frame(Kind.FINISH, 1, {LABELS: torch.ones(1)}),
            "FINISH frame with 1 tensors is not legal",
        ),
        (Frame(Kind.CUT_GRADIENT, 1, good_frame(1).tensors), "CUT_GRADIENT frame with 2 tensors"),
        (Frame(Kind.EVALUATION, 1, good_frame(1).tensors), "EVALUATION frame with 2 tensors"),
        (Frame(Kind.FINISHED, 1), "FINISHED frame with 0 tensors is not legal"),
        (Frame(Kind.SMASHED_DATA, 1), "holds the tensors"),
    ],
)
def test_a_bad_frame_ends_the_session(rule: NotingRule, frame: Frame, words: str) -> None:
    before = weights_of(rule.server_part)
    session = session_of(rule)
    session.open()
    session.handle(good_frame(0))
    with pytest.raises(ChannelError, match=words) as refusal:
        session.handle(frame)
    assert (session.finished, session.failure) == (False, str(refusal.value))
    with pytest.raises(ChannelError, match="session is closed"):
        session.handle(good_frame(1))
    assert rule.calls == ["begin", "step", "drop"]
    assert rule.training_now == {}
    assert_same_bits(weights_of(rule.server_part), before)


def test_the_server_part_sees_the_bottoms_order() -> None:
    """A frame may come in the order of names, which is not the bottom's."""
    seen: list[list[str]] = []

    class Spy(nn.Module):
        def forward(self, state: dict[str, Tensor]) -> Tensor:
            seen.append(list(state))
            return torch.zeros(4, 5)

    session = evaluating(Spy(), TREE_CUT)
    session.open()
    images, labels = batches_of(0, 4)[0]
    state = TreeBottom()(images)
    frame = smashed_frame(0, state, labels)
    session.handle(Frame(frame.kind, 0, dict(sorted(frame.tensors.items()))))
    assert seen == [list(state)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_loss_is_float32_whatever_the_dtype(dtype: torch.dtype) -> None:
    wire = wire_of({"hidden": TensorSpec((1, 4), dtype)}, 5, 8)
    rule = NotingRule(nn.Linear(4, 5).to(dtype))
    session = session_of(rule, wire=wire)
    session.open()
    frame = smashed_frame(0, torch.ones(2, 4, dtype=dtype), torch.tensor([1, 2]))
    answer = session.handle(frame)
    assert answer.tensors[LOSS].dtype is torch.float32
    assert answer.tensors["cut.hidden"].dtype is dtype
    rule.close()


def _held(rule: NotingRule, session: ServerSession, frame: Frame) -> threading.Thread:
    rule.go_on.clear()
    rule.stepping.clear()
    thread = threading.Thread(target=session.handle, args=(frame,))
    thread.start()
    assert rule.stepping.wait(5)
    return thread


@pytest.mark.parametrize("end", [lambda s: s.close("gone"), lambda s: s.revoke()])
def test_an_end_waits_for_the_step_and_drops_it(
    rule: NotingRule, end: Callable[[ServerSession], None]
) -> None:
    session = session_of(rule)
    session.open()
    step = _held(rule, session, good_frame(0))
    ender = threading.Thread(target=end, args=(session,))
    ender.start()
    ender.join(0.1)
    assert ender.is_alive()
    assert rule.calls == ["begin"]
    rule.go_on.set()
    ender.join(5)
    step.join(5)
    assert rule.calls == ["begin", "step", "drop"]
    assert rule.training_now == {}
    assert not session.finished
    with pytest.raises(ChannelError, match="session is closed"):
        session.handle(good_frame(1))


def test_a_session_that_finishes_just_in_time_is_not_cut_off(rule: NotingRule) -> None:
    """Its answer is on the way: the transport must not be torn down under it."""
    session, revoked = session_of(rule), threading.Event()
    session.open(lambda reason: revoked.set())
    step = _held(rule, session, Frame(Kind.FINISH, 0))
    ender = threading.Thread(target=session.revoke)
    ender.start()
    ender.join(0.1)
    rule.go_on.set()
    ender.join(5)
    step.join(5)
    assert session.finished
    assert not revoked.is_set()
    assert rule.calls == ["begin", "finish"]


def test_revoking_frees_the_transport_once(rule: NotingRule) -> None:
    session, reasons = session_of(rule), list[str]()
    session.open(reasons.append)
    session.revoke()
    session.revoke()
    assert reasons == [session.failure] == ["it had not finished when the round ended"]


def test_steps_in_quick_succession_cannot_delay_the_end_of_the_round(
    rule: NotingRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: set `_revoked` after taking the lock.

    A lock is not fair: a client that never pauses could hold up the round's end until it is done.
    """
    steps, frames = list[int](), [good_frame(step) for step in range(20)]

    def work() -> None:
        with contextlib.suppress(ChannelError):
            for frame in frames:
                session.handle(frame)
                steps.append(frame.step)

    worker, lock, ending = threading.Thread(target=work), threading.Lock(), threading.Event()

    class Unfair:
        """A lock that the worker gets again and again before any other thread does."""

        def __enter__(self) -> None:
            if worker.is_alive() and threading.current_thread() is not worker:
                ending.set()
                worker.join(10)
            lock.acquire()

        def __exit__(self, *error: object) -> None:
            lock.release()

    with monkeypatch.context() as patched:
        patched.setattr(threading, "Lock", Unfair)
        session = session_of(rule)
    session.open()
    rule.go_on.clear()
    worker.start()
    assert rule.stepping.wait(5)
    ender = threading.Thread(target=session.revoke)
    ender.start()
    assert ending.wait(5)
    rule.go_on.set()
    ender.join(5)
    assert steps == [0]
    assert rule.calls == ["begin", "step", "drop"]


def test_a_stream_that_comes_after_the_round_is_refused(rule: NotingRule) -> None:
    session = session_of(rule)
    session.revoke()
    with pytest.raises(ChannelError, match="its round is over"):
        session.open()
    assert rule.calls == []
    assert session.failure == "it never opened its stream"


def test_of_many_threads_that_open_a_session_one_wins(rule: NotingRule) -> None:
    session = session_of(rule)
    opened: list[int] = []
    barrier = threading.Barrier(8)

    def contend(number: int) -> None:
        barrier.wait(5)
        try:
            session.open()
            opened.append(number)
        except ChannelError:
            session.close("another lost")

    threads = [threading.Thread(target=contend, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    session.close("the end")
    assert len(opened) == 1
    assert rule.calls == ["begin", "drop"]
    wait_until(lambda: rule.training_now == {})


def test_an_absent_participant_is_reported_with_the_reason(rule: NotingRule) -> None:
    """Break it: keep the reason only for sessions that are open."""
    session = session_of(rule)
    session.revoke("the others have waited")
    session.revoke()
    assert session.failure == "it never opened its stream: the others have waited"
    assert rule.calls == []


def test_a_participant_that_the_rule_refuses_has_no_open_session(rule: NotingRule) -> None:
    def refuse(participant: int) -> None:
        raise ChannelError(f"Refused: client {participant} no longer takes part in the round.")

    rule.begin = refuse  # type: ignore[method-assign]
    session = session_of(rule)
    with pytest.raises(ChannelError, match="client 3 no longer takes part"):
        session.open()
    with pytest.raises(ChannelError, match="session is closed"):
        session.handle(good_frame(0))
    session.close("gone")
    assert (session.finished, session.failure) == (False, "it never opened its stream")
    assert rule.calls == []
