"""An object in a process of its own, whose methods are called from here."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol


class Closing(Protocol):
    """What such an object must have."""

    def close(self) -> None:
        """Free what it holds."""


class Remote:
    """A process that makes an object and calls its methods.

    Parameters
    ----------
    make : Callable[..., Closing]
        Makes the object; picklable, as are the arguments.
    *arguments : object
        Of `make`.
    """

    def __init__(self, make: Callable[..., Closing], *arguments: object) -> None:
        # One process imports what all need, and each is forked from it.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.parties"])
        self._pipe, other = context.Pipe()
        # A daemon, so that none is left if the benchmark is given up.
        self._process = context.Process(target=_answer, args=(other, make, arguments), daemon=True)
        self._process.start()
        other.close()

    def ask(self, method: str, *arguments: object) -> None:
        """Begin a call."""
        self._pipe.send((method, arguments))

    def result(self) -> Any:  # noqa: ANN401 - whatever the method returns
        """Wait for the end of the call, and return what it gave."""
        good, value = self._pipe.recv()
        if not good:
            raise RuntimeError(f"A process of the benchmark failed:\n{value}")
        return value

    def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        """Begin a call and wait for its end."""
        self.ask(method, *arguments)
        return self.result()

    def close(self) -> None:
        """Close the object and end the process."""
        self.call("close")
        self._process.join()


def _answer(
    pipe: Connection[Any, Any], make: Callable[..., Closing], arguments: tuple[object, ...]
) -> None:
    made = None
    try:
        made = make(*arguments)
        while True:
            method, given = pipe.recv()
            pipe.send((True, getattr(made, method)(*given)))
            if method == "close":
                return
    except Exception:
        pipe.send((False, traceback.format_exc()))
