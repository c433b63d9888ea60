"""The lines of a run on standard output: as they are in a file, with a live bar on a terminal."""

from __future__ import annotations

import re
import sys
from typing import Protocol, TextIO

_PROGRESS = re.compile(r"  (\d+)/(\d+) clients done, (.*) left in this round's (\w+)$")


def progress_line(done: int, total: int, left: str, doing: str) -> str:
    """Return the line that says how far a round is; a terminal shows it as a bar."""
    return f"  {done}/{total} clients done, {left} left in this round's {doing}"


class _Bar(Protocol):
    def show(self, done: int, total: int, left: str, doing: str) -> None: ...
    def clear(self) -> None: ...


class Screen:
    """Shows a run's lines. On a terminal, a line of progress is a bar that the next line replaces.

    Parameters
    ----------
    file : TextIO | None
        Where to write; None = standard output, as it is when a line is shown.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._bar: _Bar | None = None

    def show(self, line: str) -> None:
        """Show one line at once, also where the output is a pipe."""
        file = sys.stdout if self._file is None else self._file
        progress = _PROGRESS.match(line) if file.isatty() else None
        if progress is not None:
            done, total, left, doing = progress.groups()
            if self._bar is None:
                self._bar = _terminal_bar(file)
            self._bar.show(int(done), int(total), left, doing)
            return
        self.clear()
        print(line, file=file, flush=True)

    def clear(self) -> None:
        """Remove the bar, if there is one."""
        if self._bar is not None:
            self._bar.clear()
            self._bar = None


def _terminal_bar(file: TextIO) -> _Bar:
    from rich.console import Console  # only where there is a terminal
    from rich.progress import BarColumn, Progress, TextColumn

    progress = Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed}/{task.total} clients, {task.fields[left]} left"),
        console=Console(file=file),
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )

    class Bar:
        def __init__(self) -> None:
            self._task = progress.add_task("", left="")

        def show(self, done: int, total: int, left: str, doing: str) -> None:
            progress.update(self._task, completed=done, total=total, left=left, description=doing)
            progress.start()  # it draws the bar, once: not before there is something to show
            progress.refresh()

        def clear(self) -> None:
            progress.stop()

    return Bar()
