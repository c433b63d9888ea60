from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from fedsplit.errors import ChannelError
from fedsplit.split.turns import Turns
from tests.split.reference import at_once
from tests.split.toys import wait_until

LONG = 60.0


def taking(turns: Turns, k: int, taken: list[int]) -> Callable[[], None]:
    """Return a function that waits for a turn and records that it has come."""

    def take() -> None:
        turns.take(k)
        taken.append(k)

    return take


def in_background(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_turns_follow_the_given_order_whoever_asks_first() -> None:
    """Break it: let `take` return at once."""
    turns, taken = Turns(LONG), list[int]()

    def have_one(k: int) -> None:
        turns.take(k)
        taken.append(k)
        turns.leave(k)

    for order in ([3, 0, 2, 1], [1, 2, 3, 0]):
        taken.clear()
        turns.line_up(order)
        at_once(have_one, range(4))
        assert taken == order


def test_one_at_a_time() -> None:
    turns, inside, most = Turns(LONG), list[int](), list[int]()

    def have_one(k: int) -> None:
        turns.take(k)
        inside.append(k)
        most.append(len(inside))
        time.sleep(0.005)
        inside.remove(k)
        turns.leave(k)

    turns.line_up(range(6))
    at_once(have_one, range(6))
    assert most == [1] * 6


def test_a_lent_turn_stays_with_its_holder_until_it_leaves() -> None:
    turns, taken = Turns(LONG), list[int]()
    turns.line_up([0, 1])
    turns.take(0)
    turns.lend(0)
    other = in_background(taking(turns, 1, taken))
    with pytest.raises(ChannelError, match="not the turn of client 1"):
        turns.lend(1)
    turns.resume(0)
    assert taken == []
    turns.leave(0)
    other.join(5)
    assert taken == [1]


def test_a_holder_that_takes_too_long_is_given_up_with_the_reason() -> None:
    """Break it: do not name it; or let nobody watch the holder."""
    late, taken = list[tuple[int, str]](), list[int]()
    turns = Turns(0.1, lambda k, reason: late.append((k, reason)))
    turns.line_up([2, 0, 1])
    turns.take(2)
    turns.lend(2)
    started = time.monotonic()

    def have_one(k: int) -> None:
        turns.take(k)
        taken.append(k)
        turns.leave(k)

    at_once(have_one, [0, 1])
    assert 0.1 <= time.monotonic() - started < 5
    assert late == [(2, "its turn has lasted for channel.step-timeout = 0.1 seconds")]
    assert taken == [0, 1]
    with pytest.raises(ChannelError, match="client 2 no longer has a turn"):
        turns.resume(2)


def test_several_holders_are_given_up_one_after_another() -> None:
    late = list[int]()
    turns = Turns(0.05, lambda k, reason: late.append(k))
    turns.line_up([0, 1, 2, 3])

    def go_away(k: int) -> None:
        turns.take(k)
        turns.lend(k)

    at_once(go_away, range(4))
    assert late == [0, 1, 2]  # nobody waits for the last


def test_a_holder_whose_batch_the_server_computes_is_not_late() -> None:
    """Break it: count from `take` instead of `lend`."""
    late, taken = list[int](), list[int]()
    turns = Turns(0.05, lambda k, reason: late.append(k))
    turns.line_up([0, 1])
    turns.take(0)
    other = in_background(taking(turns, 1, taken))
    other.join(0.25)
    assert (late, taken) == ([], [])
    turns.leave(0)
    other.join(5)
    assert (late, taken) == ([], [1])


@pytest.mark.parametrize("gone", [0, 1], ids=["the holder", "one that waits"])
def test_a_participant_that_leaves_is_skipped(gone: int) -> None:
    """Break it: do not notify in `_remove`."""
    turns, taken = Turns(LONG), list[int]()
    turns.line_up([0, 1, 2])
    turns.take(0)
    last = in_background(taking(turns, 2, taken))
    turns.leave(gone)
    turns.leave(gone)  # again, to no effect
    turns.leave(1 - gone)
    last.join(5)
    assert taken == [2]


def test_closing_turns_wakes_everyone_at_once() -> None:
    """Break it: do not notify in `close`."""
    turns, refused = Turns(LONG), list[str]()
    turns.line_up(range(5))
    turns.take(0)

    def hope(k: int) -> None:
        with pytest.raises(ChannelError, match="no longer has a turn") as error:
            turns.take(k)
        refused.append(str(error.value))

    threads = [in_background(lambda k=k: hope(k)) for k in range(1, 5)]  # type: ignore[misc]
    started = time.monotonic()
    turns.close()
    for thread in threads:
        thread.join(5)
    assert time.monotonic() - started < 5
    assert len(refused) == 4
    with pytest.raises(ChannelError, match="client 0 no longer has a turn"):
        turns.resume(0)


def test_only_the_next_one_watches_and_nothing_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break it: wait for at most 0.1 seconds at a time, in a loop; or let all watch."""
    turns, asked = Turns(40.0), list[float | None]()

    class Noting(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            asked.append(timeout)
            return super().wait(timeout)

    with monkeypatch.context() as patched:
        patched.setattr(threading, "Condition", Noting)
        turns.line_up(range(4))
    turns.take(0)
    threads = [in_background(lambda k=k: turns.take(k)) for k in (1, 2, 3)]  # type: ignore[misc]
    wait_until(lambda: len(asked) == 3)
    assert sorted(limit or 0.0 for limit in asked) == [0.0, 0.0, 40.0]
    turns.leave(0)
    for k, thread in enumerate(threads, start=1):
        thread.join(5)  # it has its turn
        turns.leave(k)
    assert len(asked) <= 3 + 2  # one more each for those that have become next
