"""How models are made: one at a time in a process, each kept once, quietly."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from safetensors import SafetensorError

from fedsplit.errors import FedSplitError, ModelError, cannot_write, shorten
from fedsplit.references import is_reference
from fedsplit.seeding import process_lock

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """Make each value once, and keep a bounded number of them; a failure is not kept.

    A value is made under the process lock; a value that is there is returned without it. That is
    what `OnceCache` cannot do: a thread that holds the lock already, because it makes another
    model, would wait there for a thread that waits for the lock.

    Parameters
    ----------
    max_values : int
        Where there would be more, the oldest is dropped.
    """

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self._values: dict[Hashable, Value] = {}

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of `key`; call `make` if there is none yet."""
        found = self._values.get(key)
        if found is not None:
            return found
        with process_lock:
            found = self._values.get(key)  # another thread may have made it meanwhile
            if found is None:
                found = make()
                while len(self._values) >= self._max_values:
                    del self._values[next(iter(self._values))]
                self._values[key] = found
        return found


@contextmanager
def quietly(name: str, *, doing: str = "loaded") -> Iterator[None]:
    """Hold the process lock, silence transformers, and turn any failure into a `FedSplitError`.

    Parameters
    ----------
    name : str
        The model, for the message.
    doing : str
        What is done with it, for the message: ``loaded`` or ``saved``.
    """
    with process_lock:
        try:
            with _silence(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except FedSplitError:
            raise
        except Exception as error:
            if doing == "saved" and isinstance(error, OSError | SafetensorError):
                raise cannot_write(Path(name), error) from None
            reason = shorten(" ".join(str(error).split())) or type(error).__name__
            if isinstance(error, KeyError):  # its text is a name alone, such as an activation's
                reason = f"its library knows no {reason}"
            remedy = "Check the directory and its config.json."
            if is_reference(name):
                remedy = "It is what the function of this name makes: check that function."
            raise ModelError(
                f"The model '{name}' cannot be {doing}: {reason}{'' if reason[-1] == '.' else '.'} "
                f"{remedy}"
            ) from None


@contextmanager
def _silence() -> Iterator[None]:
    hub = importlib.import_module("huggingface_hub.utils")
    logging = importlib.import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bars = not hub.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()  # this also disables the hub's
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        (hub.enable_progress_bars if hub_bars else hub.disable_progress_bars)()
