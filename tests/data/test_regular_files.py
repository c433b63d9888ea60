from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsplit.data.regular_files import NotRegularError, open_regular, special_kind
from tests.data.strangers import SPECIAL


def test_a_file_is_opened_also_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"one"
        assert special_kind(tmp_path / name) is None
    assert special_kind(tmp_path) is None
    assert special_kind(tmp_path / "nothing") is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("called", "make"), SPECIAL.items(), ids=["pipe", "socket", "device"])
def test_what_is_no_file_is_named_without_waiting(
    tmp_path: Path, called: str, make: Callable[[Path], None]
) -> None:
    """Break it: open it as a file; the pipe has no writer, and the device has no end."""
    make(tmp_path / "1.png")
    with pytest.raises(NotRegularError, match=rf"1\.png' is {called}, not a file"):
        open_regular(tmp_path / "1.png")
    assert special_kind(tmp_path / "1.png") == called.replace("\\", "")


@pytest.mark.timeout(20)
def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: leave out O_NONBLOCK, or the look at what was opened."""
    SPECIAL[r"a named pipe \(FIFO\)"](tmp_path / "1.png")
    (tmp_path / "plain").write_bytes(b"")
    plain = (tmp_path / "plain").stat()
    monkeypatch.setattr(os, "stat", lambda _: plain)
    with pytest.raises(NotRegularError, match="named pipe"):
        open_regular(tmp_path / "1.png")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotRegularError, match="is a folder, not a file"):
        open_regular(tmp_path)
