from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from fedsplit.run_log import Verbosity, early_warnings, note, run_log, say, warn

FLOWER = logging.getLogger("flwr")


def _a_run(verbosity: Verbosity, path: Path) -> None:
    with run_log(verbosity) as lines:
        say("before the directory")
        lines.write_to(path)
        say("100 % done")
        note("a table")
        warn("look here")
        FLOWER.info("[ROUND 1/3]")
        FLOWER.warning("a client failed")


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        ("quiet", []),
        ("normal", ["before the directory", "100 % done"]),
        ("verbose", ["before the directory", "100 % done", "a table"]),
    ],
)
def test_the_console_has_a_persons_lines_and_the_file_everything(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verbosity: Verbosity, shown: list[str]
) -> None:
    """Break it: show Flower's lines, or write to the file only from its opening on."""
    _a_run(verbosity, tmp_path / "log.txt")
    out, err = capsys.readouterr()
    assert out.splitlines() == shown
    assert "Warning: look here" in err
    if verbosity != "verbose":
        assert "Warning: a client failed" in err
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line[20:27].strip() for line in lines] == [
        *("INFO", "INFO", "DEBUG", "WARNING", "INFO", "WARNING"),
    ]
    assert [line[28:] for line in lines] == [
        *("before the directory", "100 % done", "a table", "look here", "[ROUND 1/3]"),
        "a client failed",
    ]


def test_flowers_console_is_silent_but_for_verbose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []

    class Console(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    monkeypatch.setattr(FLOWER, "handlers", [Console()])
    _a_run("normal", tmp_path / "one")
    assert seen == []
    _a_run("verbose", tmp_path / "two")
    assert seen == ["[ROUND 1/3]", "a client failed"]
    FLOWER.info("after the run")
    assert seen[-1] == "after the run"


def test_no_line_has_codes_for_a_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Break it: write the name of a stranger's folder as it is."""
    with early_warnings() as early:
        logging.getLogger("fedsplit.data").warning("folder %s", "a\x1b[2J")
    with run_log("normal") as lines:
        lines.write_to(tmp_path / "log.txt")
        warn("two\nlines \x1b]0;title\x07")
        say("\u202eb")
    shown = "".join([*capsys.readouterr(), *early, (tmp_path / "log.txt").read_text()])
    assert not set(shown) & set("\x1b\x07\u202e")
    assert "Warning: two\nlines \ufffd]0;title\ufffd\n" in shown


def test_all_loggers_are_as_they_were(tmp_path: Path) -> None:
    """Break it: leave a handler, or the level."""
    loggers = [logging.getLogger(name) for name in ("fedsplit", "fedsplit.run", "flwr")]

    def state() -> list[object]:
        return [(list(log.handlers), log.level, log.propagate) for log in loggers]

    before = state()
    with pytest.raises(RuntimeError), run_log("normal"):
        raise RuntimeError
    assert state() == before


def test_a_full_disk_ends_the_file_and_not_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Break it: let logging print a traceback for every line."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full")
    with run_log("normal") as lines:
        lines.write_to(full)
        say("one")
        say("two")
    out, err = capsys.readouterr()
    assert out == "one\ntwo\n"
    assert err.count("log.txt ends here") == 1


def test_a_console_that_has_ended_is_said_once_and_the_run_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Break it: let logging print a traceback for every line after 'fedsplit run | head -1'."""

    def closed(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr("fedsplit.run_log.Screen.show", closed)
    with run_log("normal") as lines:
        lines.write_to(tmp_path / "log.txt")
        say("one")
        say("two")
    _, err = capsys.readouterr()
    assert err == (
        "Warning: Nothing more is shown here: [Errno 32] Broken pipe. The run goes on, and log.txt "
        "has its lines.\n"
    )
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 2
