"""An object in another process, whose methods are called from this one."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol


class Closing(Protocol):
    """The interface of such an object."""

    def close(self) -> None:
        """Free what it holds."""


class Remote:
    """A process that makes an object and calls its methods.

    Parameters
    ----------
    make : Callable[..., Closing]
        Makes the object. It must be picklable, like the arguments.
    *arguments : object
        The arguments of `make`.
    """

    def __init__(self, make: Callable[..., Closing], *arguments: object) -> None:
        # One process does the imports that all need, and each process is forked from it.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.parties"])
        self._pipe, other = context.Pipe()
        # A daemon, so that no process is left if the benchmark is interrupted.
        self._process = context.Process(target=_answer, args=(other, make, arguments), daemon=True)
        self._process.start()
        other.close()

    def ask(self, method: str, *arguments: object) -> None:
        """Begin a call."""
        self._pipe.send((method, arguments))

    def result(self) -> Any:  # noqa: ANN401 - whatever the method returns
        """Wait for the end of the call, and return its result."""
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
