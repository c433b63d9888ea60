from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedsplit.errors import RunError
from fedsplit.scratch import Scratch


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_lives_until_it_is_removed(tmp_path: Path) -> None:
    one, two = Scratch("copies"), Scratch("copies")
    assert one.path != two.path
    (one.path / "file").write_text("x")
    assert {path.name for path in tmp_path.iterdir()} == {one.path.name, two.path.name}
    one.remove()
    one.remove()
    assert list(tmp_path.iterdir()) == [two.path]
    two.remove()


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    """Break it: sweep folders by their age alone, or all of them."""
    program = (
        f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
        "from fedsplit.scratch import Scratch\n"
        "Scratch('copies'); print('made', flush=True); input()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"made\n"
    processes[0].send_signal(signal.SIGKILL)
    processes[0].communicate()
    (tmp_path / "fedsplit-just-made").mkdir()
    (tmp_path / "fedsplit-old").mkdir()
    os.utime(tmp_path / "fedsplit-old", (0, 0))
    (tmp_path / "other").mkdir()
    os.utime(tmp_path / "other", (0, 0))
    (tmp_path / "fedsplit-link").symlink_to(tmp_path / "other")

    mine = Scratch("copies")

    left = {path.name for path in tmp_path.iterdir()}
    assert {mine.path.name, "fedsplit-just-made", "other", "fedsplit-link"} < left
    assert len(left) == 5  # and that of the process that still runs
    processes[1].communicate(b"\n")
    mine.remove()


def test_where_none_can_be_made_the_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(RunError, match=r"Cannot write '.*/none': No such file"):
        Scratch("copies")
