"""A cache for values that are costly to make and that many threads ask for at the same time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class OnceCache(Generic[Value]):
    """Make each value once, and keep the most recently used ones up to a total size.

    `functools.lru_cache` makes a value twice when two threads ask for it at the same time, and it
    counts entries, not bytes. Here the second thread waits for the first one's value; threads
    that ask for other values do not wait. A failure is not kept: the next caller tries again.

    A key must hold everything that its value depends on. Make it one frozen value, and make the
    value from nothing but the key.

    Parameters
    ----------
    max_size : int
        Maximum sum of the sizes; the value used last always stays.
    size_of : Callable[[Value], int]
        Size of one value; by default 1, so that `max_size` counts values.
    """

    def __init__(self, max_size: int, size_of: Callable[[Value], int] = lambda _: 1) -> None:
        self._max_size = max_size
        self._size_of = size_of
        self._futures: OrderedDict[Hashable, Future[Value]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, and call `make` for it if it is not in the cache."""
        with self._lock:
            future = self._futures.get(key)
            if future is not None:
                self._futures.move_to_end(key)
            else:
                mine: Future[Value] = Future()
                self._futures[key] = mine
        if future is not None:
            return future.result()
        return self._fill(key, mine, make)

    def forget(self, unwanted: Callable[[Hashable], bool] = lambda _: True) -> None:
        """Remove the values of the keys for which `unwanted` is true; by default, all."""
        with self._lock:
            for key in [key for key in self._futures if unwanted(key)]:
                del self._futures[key]

    def _fill(self, key: Hashable, future: Future[Value], make: Callable[[], Value]) -> Value:
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                if self._futures.get(key) is future:
                    del self._futures[key]
            future.set_exception(error)
            raise
        future.set_result(value)
        self._evict()
        return value

    def _evict(self) -> None:
        with self._lock:
            ready = [
                (key, self._size_of(f.result())) for key, f in self._futures.items() if f.done()
            ]
            total = sum(size for _, size in ready)
            for key, size in ready[:-1]:
                if total <= self._max_size:
                    break
                del self._futures[key]
                total -= size
