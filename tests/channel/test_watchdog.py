from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fedsplit.channel import watchdog as watchdogs
from fedsplit.channel.watchdog import Watchdog
from tests.channel.hosts import wait_until


class _Clock:
    """Time that passes when a test says so, so that a machine that pauses changes no outcome."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """Replace the clock of the watchdogs. Their threads still wake in real time."""
    clock = _Clock()
    monkeypatch.setattr(watchdogs, "time", clock)
    return clock


def _watchdogs() -> int:
    return sum(thread.name == "fedsplit-watchdog" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    wait_until(lambda: not _watchdogs())
    yield
    wait_until(lambda: not _watchdogs())


def test_expires_once_and_in_time() -> None:
    calls: list[float] = []
    start = time.monotonic()
    watchdog = Watchdog(0.1, lambda: calls.append(time.monotonic() - start))
    with watchdog:
        wait_until(lambda: calls)
        time.sleep(0.25)
    assert len(calls) == 1
    assert 0.1 <= calls[0] < 5
    assert watchdog.expired


def test_the_time_counts_from_the_entry(clock: _Clock) -> None:
    expired = threading.Event()
    watchdog = Watchdog(0.05, expired.set)
    clock.now += 0.04  # counted from the constructor, 0.01 s would be left
    with watchdog:
        clock.now += 0.04
        assert not expired.wait(0.2)
        clock.now += 0.02
        assert expired.wait(5)


def test_many_short_blocks_do_not_add_up(clock: _Clock) -> None:
    watchdog = Watchdog(0.02, lambda: None)
    for _ in range(30):
        with watchdog:
            clock.now += 0.01
            time.sleep(0.01)  # the thread wakes about fifteen times in all
    assert not watchdog.expired
    watchdog.stop()


def test_idle_time_is_free(clock: _Clock) -> None:
    watchdog = Watchdog(0.05, lambda: None)
    with watchdog:
        pass
    clock.now += 60
    time.sleep(0.2)
    assert not watchdog.expired
    watchdog.stop()


def test_stop_ends_the_thread_and_the_limit(clock: _Clock) -> None:
    watchdog = Watchdog(0.1, lambda: None)
    assert _watchdogs() == 1
    with watchdog:
        watchdog.stop()
        clock.now += 60
        time.sleep(0.25)
    assert not watchdog.expired
    wait_until(lambda: not _watchdogs())


def test_the_thread_ends_when_the_time_is_up() -> None:
    with Watchdog(0.01, lambda: None):
        wait_until(lambda: not _watchdogs())


def test_a_limit_of_centuries_never_expires() -> None:
    watchdog = Watchdog(1e300, lambda: None)
    with watchdog:
        time.sleep(0.05)
        assert _watchdogs() == 1
    assert not watchdog.expired
    watchdog.stop()
