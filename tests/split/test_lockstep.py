from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import pytest

from fedsplit.errors import ChannelError
from fedsplit.split.lockstep import GiveUp, Lockstep, keep
from tests.split.reference import at_once
from tests.split.toys import wait_until

Step = Lockstep[str, str]
LONG = 60.0


def lockstep(
    *, join: float = LONG, step: float = LONG, participants: int = 3, give_up: GiveUp = keep
) -> Step:
    opened: Step = Lockstep(join_seconds=join, step_seconds=step, give_up=give_up)
    opened.open(range(participants))
    return opened


def shout(values: Mapping[int, str]) -> Mapping[int, str]:
    return {k: value.upper() for k, value in values.items()}


def deliver(steps: Step, k: int) -> str:
    """Return a participant's outcome, or the first word of the refusal."""
    try:
        return steps.together(k, f"from {k}", shout)
    except ChannelError as error:
        return str(error)[:8]


def waiting(steps: Step) -> set[int]:
    return set(steps.delivered)


def in_background(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_a_step_is_computed_once_with_all_values_in_the_order_of_participants() -> None:
    steps = lockstep(participants=5)
    seen: list[list[tuple[int, int]]] = []

    def note(values: Mapping[int, str]) -> Mapping[int, str]:
        seen.append([(k, int(value)) for k, value in values.items()])
        return shout(values)

    for step in range(3):
        outcomes = at_once(
            lambda k, s=step: steps.together(k, str(10 * s + k), note),  # type: ignore[misc]
            [4, 2, 0, 3, 1],
        )
        assert outcomes == {k: str(10 * step + k) for k in range(5)}
    assert seen == [[(k, 10 * step + k) for k in range(5)] for step in range(3)]


def test_nobody_continues_before_the_last_has_delivered() -> None:
    steps, done = lockstep(), list[int]()
    threads = [
        in_background(lambda k=k: done.append(len(deliver(steps, k)) and k))  # type: ignore[misc]
        for k in (0, 1)
    ]
    wait_until(lambda: waiting(steps) == {0, 1})
    assert done == []
    assert deliver(steps, 2) == "FROM 2"
    for thread in threads:
        thread.join(5)
    assert sorted(done) == [0, 1]


def test_a_participant_that_leaves_is_no_longer_waited_for() -> None:
    """Break it: do not notify in `leave`."""
    steps, outcomes = lockstep(), list[str]()
    threads = [
        in_background(lambda k=k: outcomes.append(deliver(steps, k)))  # type: ignore[misc]
        for k in (0, 1)
    ]
    wait_until(lambda: waiting(steps) == {0, 1})
    steps.leave(2)
    for thread in threads:
        thread.join(5)
    assert sorted(outcomes) == ["FROM 0", "FROM 1"]
    steps.leave(0)
    assert deliver(steps, 1) == "FROM 1"  # alone, at once
    for k in (0, 2):
        with pytest.raises(ChannelError, match=f"client {k} no longer takes part"):
            steps.require(k)


def test_a_participant_that_leaves_takes_back_what_it_delivered() -> None:
    steps, outcomes = lockstep(), dict[int, str]()
    left = in_background(lambda: outcomes.update({0: deliver(steps, 0)}))
    wait_until(lambda: waiting(steps) == {0})
    steps.leave(0)
    left.join(5)
    outcomes |= at_once(lambda k: deliver(steps, k), [1, 2])
    assert outcomes == {0: "Refused:", 1: "FROM 1", 2: "FROM 2"}


@pytest.mark.parametrize("joined", [False, True], ids=["first step", "next step"])
def test_late_participants_are_given_up_after_the_timeout_with_the_reason(joined: bool) -> None:
    """Break it: use `step_seconds` for the first step too, or name the other key."""
    join, step = (LONG, 0.1) if joined else (0.1, LONG)
    late: list[tuple[int, str]] = []
    steps = lockstep(join=join, step=step, give_up=lambda k, reason: late.append((k, reason)))
    if joined:
        at_once(lambda k: deliver(steps, k), range(3))
    started = time.monotonic()
    assert deliver(steps, 1) == "FROM 1"
    assert 0.1 <= time.monotonic() - started < 5
    what, key = ("next", "step") if joined else ("first", "join")
    words = f"the others have waited for its {what} step for channel.{key}-timeout = 0.1 seconds"
    assert sorted(late) == [(0, words), (2, words)]
    assert deliver(steps, 0) == "Refused:"
    assert deliver(steps, 1) == "FROM 1"  # the others go on without them
    assert len(late) == 2


def test_each_late_participant_is_given_up_once() -> None:
    late: list[int] = []
    steps = lockstep(join=0.1, participants=6, give_up=lambda k, reason: late.append(k))
    outcomes = at_once(lambda k: deliver(steps, k), range(4))
    assert outcomes == {k: f"FROM {k}" for k in range(4)}
    assert sorted(late) == [4, 5]


def test_late_participants_are_given_up_without_holding_the_lock() -> None:
    """Break it: call `give_up` within `with self._changed`."""
    free: list[bool] = []

    def told(participant: int, reason: str) -> None:
        asking = in_background(lambda: waiting(steps))  # it takes the lock
        asking.join(1)
        free.append(not asking.is_alive())

    steps = lockstep(join=0.1, participants=2, give_up=told)
    assert deliver(steps, 0) == "FROM 0"
    assert free == [True]


def test_a_computation_longer_than_the_timeout_makes_nobody_late() -> None:
    """Break it: give up participants without checking whether the step is complete.

    All have delivered in time. The server's computation must not count against them.
    """
    late: list[int] = []
    steps = lockstep(step=0.1, give_up=lambda k, reason: late.append(k))
    at_once(lambda k: deliver(steps, k), range(3))

    def slow(values: Mapping[int, str]) -> Mapping[int, str]:
        time.sleep(0.3)
        return shout(values)

    outcomes = at_once(lambda k: steps.together(k, f"from {k}", slow), range(3))
    assert outcomes == {k: f"FROM {k}" for k in range(3)}
    assert late == []
    assert at_once(lambda k: deliver(steps, k), range(3)) == outcomes


def test_an_error_of_the_computation_reaches_everyone_and_the_next_step_works() -> None:
    """Break it: let the error out of `_complete`; then only one thread learns of it."""
    steps = lockstep()

    def fail(values: Mapping[int, str]) -> Mapping[int, str]:
        raise ZeroDivisionError(f"with {len(values)} values")

    def told(k: int) -> str:
        with pytest.raises(ZeroDivisionError, match="with 3 values") as error:
            steps.together(k, "", fail)
        return str(error.value)

    assert at_once(told, range(3)) == dict.fromkeys(range(3), "with 3 values")
    assert at_once(lambda k: deliver(steps, k), range(3))[2] == "FROM 2"


def test_closing_a_lockstep_wakes_everyone_at_once() -> None:
    """Break it: do not notify in `close`."""
    steps, outcomes = lockstep(participants=5), list[str]()
    threads = [
        in_background(lambda k=k: outcomes.append(deliver(steps, k)))  # type: ignore[misc]
        for k in range(4)
    ]
    wait_until(lambda: waiting(steps) == {0, 1, 2, 3})
    started = time.monotonic()
    steps.close()
    for thread in threads:
        thread.join(5)
    assert time.monotonic() - started < 5
    assert outcomes == ["Refused:"] * 4
    assert deliver(steps, 4) == "Refused:"
    steps.open([0, 4])
    assert at_once(lambda k: deliver(steps, k), [0, 4]) == {0: "FROM 0", 4: "FROM 4"}


def test_nothing_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break it: wait for at most 0.1 seconds at a time, in a loop."""
    asked: list[float] = []

    class Noting(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            asked.append(-1.0 if timeout is None else timeout)
            return super().wait(timeout)

    with monkeypatch.context() as patched:
        patched.setattr(threading, "Condition", Noting)
        steps = lockstep(join=40.0, step=50.0)
    for limit in (40.0, 50.0):
        asked.clear()
        threads = [
            in_background(lambda k=k: deliver(steps, k))  # type: ignore[misc]
            for k in (0, 1)
        ]
        wait_until(lambda: len(asked) == 2)
        assert asked == pytest.approx([limit, limit], abs=5.0)
        deliver(steps, 2)
        for thread in threads:
            thread.join(5)
        assert len(asked) == 2


def test_an_unlimited_timeout_does_not_overflow() -> None:
    """Break it: pass the number to `Condition.wait` as it is; it overflows."""
    steps = lockstep(join=1e300, step=1e300)
    assert at_once(lambda k: deliver(steps, k), range(3))[0] == "FROM 0"
