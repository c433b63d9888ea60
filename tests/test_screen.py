from __future__ import annotations

import io
import os

import pytest

from fedsplit.screen import Screen, progress_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_every_line_as_it_is() -> None:
    file = io.StringIO()
    screen = Screen(file)
    lines = ["one", progress_line(1, 4, "3 s", "training"), "two"]
    for line in lines:
        screen.show(line)
    assert file.getvalue().splitlines() == lines


def test_a_line_is_shown_at_once_through_a_pipe() -> None:
    """Break it: do not flush."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with os.fdopen(writing, "w") as pipe:
        Screen(pipe).show("line")
        assert os.read(reading, 100) == b"line\n"
    os.close(reading)


def test_on_a_terminal_progress_is_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break it: print the line, or leave the bar above the next line."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    screen = Screen(terminal)
    screen.show(progress_line(1, 4, "3 s", "training"))
    screen.show(progress_line(2, 4, "2 s", "training"))
    shown = terminal.getvalue()
    assert "━" in shown
    assert "training" in shown
    assert "2/4 clients, 2 s left" in shown
    assert "clients done" not in shown
    assert "0/" not in shown
    screen.show("  1/3  0.5")
    after = terminal.getvalue()[len(shown) :]
    assert "\x1b[2K" in after  # the bar's line is erased
    assert after.endswith("  1/3  0.5\n")
