from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedsplit.cache import OnceCache


def test_threads_that_ask_at_once_get_one_value_made_once() -> None:
    cache: OnceCache[object] = OnceCache(max_size=4)
    made: list[int] = []

    def make() -> object:
        made.append(1)
        time.sleep(0.05)
        return object()

    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: cache.get("key", make), range(8)))
    assert len(made) == 1
    assert all(value is values[0] for value in values)


def test_other_keys_do_not_wait() -> None:
    cache: OnceCache[int] = OnceCache(max_size=4)

    def outer() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(cache.get, "inner", lambda: 1).result(timeout=5) + 1

    assert cache.get("outer", outer) == 2


def test_a_failure_reaches_everyone_and_is_not_kept() -> None:
    cache: OnceCache[int] = OnceCache(max_size=4)

    def fail() -> int:
        time.sleep(0.05)
        raise ValueError("once")

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(cache.get, "key", fail) for _ in range(2)]
        for future in futures:
            with pytest.raises(ValueError, match="once"):
                future.result()
    assert cache.get("key", lambda: 5) == 5


def test_least_recently_used_values_go_when_the_sizes_exceed_the_bound() -> None:
    cache: OnceCache[int] = OnceCache(max_size=10, size_of=lambda value: value)
    made: list[int] = []

    def get(size: int) -> None:
        def make() -> int:
            made.append(size)
            return size

        cache.get(size, make)

    for size in (4, 5, 4, 3, 4, 5):  # 3 drives out 5, the least recently used
        get(size)
    assert made == [4, 5, 3, 5]
    get(100)  # larger than the bound: kept all the same, alone
    get(100)
    assert made == [4, 5, 3, 5, 100]
    cache.forget()
    get(100)
    assert made[-2:] == [100, 100]


def test_unwanted_values_are_forgotten() -> None:
    cache: OnceCache[str] = OnceCache(max_size=9)
    for key in ("a", "b", "c"):
        cache.get(key, key.upper)
    cache.forget(lambda key: key == "b")
    assert [cache.get(key, lambda: "new") for key in ("a", "b", "c")] == ["A", "new", "C"]
