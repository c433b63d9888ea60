from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial

from fedsplit.models.making import Memo, quietly
from fedsplit.seeding import seeded_init


def test_a_memo_keeps_its_newest_values() -> None:
    """Break it: drop the newest value, or keep all."""
    made: list[int] = []
    memo: Memo[int] = Memo(2)

    def make(key: int) -> int:
        made.append(key)
        return key + 10

    for key in (1, 2, 1, 3, 2, 1):
        assert memo.get(key, partial(make, key)) == key + 10
    assert made == [1, 2, 3, 1]


def test_a_thread_that_seeds_and_one_that_makes_do_not_wait_for_each_other() -> None:
    """Break it: give models a lock of their own."""
    inside = threading.Barrier(2, timeout=0.3)
    finished = []

    def meet() -> None:
        with suppress(threading.BrokenBarrierError):  # the other thread may wait outside
            inside.wait()

    def seed_then_make() -> None:
        with seeded_init(1, "a"):
            meet()
            with quietly("a model"):
                finished.append("seeded")

    def make_then_seed() -> None:
        with quietly("a model"):
            meet()
            with seeded_init(1, "a"):
                finished.append("made")

    threads = [
        threading.Thread(target=target, daemon=True) for target in (seed_then_make, make_then_seed)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(finished) == ["made", "seeded"]
