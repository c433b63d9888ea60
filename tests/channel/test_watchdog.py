from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fedsplit.channel.watchdog import Watchdog
from tests.channel.hosts import wait_until


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
    assert 0.1 <= calls[0] < 1.0
    assert watchdog.expired


def test_the_time_counts_from_the_entry() -> None:
    expired = threading.Event()
    watchdog = Watchdog(0.3, expired.set)
    time.sleep(0.2)  # counted from the constructor, 0.1 s would be left
    with watchdog:
        assert not expired.wait(0.2)
        assert expired.wait(0.5)
    watchdog.stop()


def test_many_short_blocks_do_not_add_up() -> None:
    watchdog = Watchdog(0.2, lambda: None)
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        with watchdog:
            time.sleep(0.01)
    assert not watchdog.expired
    watchdog.stop()


def test_idle_time_is_free() -> None:
    watchdog = Watchdog(0.05, lambda: None)
    with watchdog:
        pass
    time.sleep(0.25)
    assert not watchdog.expired
    watchdog.stop()


def test_stop_ends_the_thread_and_the_limit() -> None:
    watchdog = Watchdog(0.1, lambda: None)
    assert _watchdogs() == 1
    with watchdog:
        watchdog.stop()
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
