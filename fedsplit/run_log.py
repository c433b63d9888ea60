"""Where the lines of a run go: what a person reads on the console, everything to ``log.txt``.

Lines for the person are records of the logger ``fedsplit.run``. Flower's loop logs ten more for
each round; they are on the console only if ``console`` is ``verbose``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TextIO

from fedsplit.errors import cannot_write
from fedsplit.names import printable_lines
from fedsplit.screen import Screen

Verbosity = Literal["quiet", "normal", "verbose"]

clients_log = logging.getLogger("fedsplit.client")
"""Tracebacks of clients that failed: the server says in one line of all that failed alike."""
_run = logging.getLogger("fedsplit.run")
_house = logging.getLogger("fedsplit")
_flower = logging.getLogger("flwr")
_LEVELS = {"quiet": logging.WARNING, "normal": logging.INFO, "verbose": logging.DEBUG}
_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def say(line: str) -> None:
    """Tell the person who made the run, and its log."""
    _run.info("%s", line)


def note(line: str) -> None:
    """Tell the run's log, and the person only if the console is verbose."""
    _run.debug("%s", line)


def warn(text: str) -> None:
    """Warn the person who made the run, also if the console is quiet."""
    _run.warning("%s", text)


class PrintableFormatter(logging.Formatter):
    """Leaves out of a record what a terminal would follow, not show (see `printable_lines`)."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return printable_lines(super().format(record))


class _OnScreen(logging.Handler):
    """Shows lines as they are, and warnings as such."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self.setFormatter(PrintableFormatter())
        self._screen = screen
        self._is_broken = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_broken:
            return
        try:
            text = self.format(record)
            if record.levelno < logging.WARNING:
                self._screen.show(text)
            else:
                self._screen.clear()
                print(f"{record.levelname.capitalize()}: {text}", file=sys.stderr, flush=True)  # noqa: T201
        except OSError as error:  # such as a pipe into 'head', which has ended
            self._is_broken = True
            said = (
                f"Nothing more is shown here: {error}. The run goes on, and log.txt has its lines."
            )
            with suppress(OSError):
                print(f"Warning: {said}", file=sys.stderr)  # noqa: T201
        except Exception:
            self.handleError(record)


class _Early(logging.Handler):
    """Shows warnings on standard error, and remembers them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(printable_lines(record.getMessage()))
        print(f"{record.levelname.capitalize()}: {self.texts[-1]}", file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def early_warnings() -> Iterator[list[str]]:
    """Show what the checks before a run warn of, as in the run; yield these texts."""
    shown = _Early()
    _house.addHandler(shown)
    try:
        yield shown.texts
    finally:
        _house.removeHandler(shown)


class RunLog(logging.Handler):
    """Writes records to a file that may not exist yet, and keeps them until it does."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(PrintableFormatter(_FORMAT, "%Y-%m-%d %H:%M:%S"))
        self._kept: list[logging.LogRecord] = []
        self._file: TextIO | None = None
        self._is_broken = False

    def write_to(self, path: Path) -> None:
        """Append everything from the beginning of the run to a file.

        Raises
        ------
        RunError
            If it cannot be opened.
        """
        try:
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        except OSError as error:
            raise cannot_write(path, error) from None
        for record in self._kept:
            self.emit(record)
        self._kept.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep it."""
        if self._file is None:
            self._kept.append(record)
        elif not self._is_broken:
            try:
                self._file.write(f"{self.format(record)}\n")
            except OSError as error:  # what else the run cannot write then ends it
                self._is_broken = True
                print(f"Warning: log.txt ends here: {error}.", file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):  # such as a full disk, which `emit` has reported
                self._file.close()
        super().close()


@contextmanager
def run_log(verbosity: Verbosity) -> Iterator[RunLog]:
    """Show and keep the lines of one run; leave all loggers as they were.

    Parameters
    ----------
    verbosity : Verbosity
        The key ``console``: quiet shows warnings only, verbose shows Flower's lines too.
    """
    screen, in_file = Screen(), RunLog()
    lines, warnings = _OnScreen(screen), _OnScreen(screen)
    lines.setLevel(_LEVELS[verbosity])
    warnings.setLevel(logging.WARNING)
    hidden = "" if verbosity == "verbose" else clients_log.name
    lines.addFilter(
        lambda record: (
            record.name == _run.name
            or (record.levelno >= logging.WARNING and record.name != hidden)
        )
    )
    handlers: dict[logging.Logger, list[logging.Handler]] = {
        _house: [lines, in_file],
        _flower: [in_file] if verbosity == "verbose" else [warnings, in_file],
    }

    def on_flowers_console(_: logging.LogRecord) -> bool:
        return verbosity == "verbose"

    consoles = list(_flower.handlers)
    before = _house.level, _run.level
    _house.setLevel(logging.INFO)
    _run.setLevel(logging.DEBUG)
    for console in consoles:
        console.addFilter(on_flowers_console)
    for logger, added in handlers.items():
        for handler in added:
            logger.addHandler(handler)
    try:
        yield in_file
    finally:
        screen.clear()
        for logger, added in handlers.items():
            for handler in added:
                logger.removeHandler(handler)
        for console in consoles:
            console.removeFilter(on_flowers_console)
        in_file.close()
        _house.setLevel(before[0])
        _run.setLevel(before[1])
