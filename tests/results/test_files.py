from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedsplit.errors import RunError
from fedsplit.results.files import (
    read_lines,
    read_object,
    remove_partial,
    replace_file,
    replace_folder,
    replace_text,
)


def _no_space(path: Path) -> None:
    path.write_text("half")
    raise OSError(28, "No space left on device")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """Break it: write to the path itself."""
    path = tmp_path / "a.json"
    replace_text(path, "old")
    with pytest.raises(RunError, match=r"Cannot write '.*a\.json': No space left on device"):
        replace_file(path, _no_space)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    replace_text(path, "new")
    assert path.read_text() == "new"


def test_a_file_is_on_the_disk_before_it_has_its_name_and_so_is_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: rename first; sync neither; sync the file only.

    After a power cut a name may otherwise stand for an empty file: the newest checkpoint.
    """
    path, synced = tmp_path / "a.json", list[tuple[str, bool]]()

    def record(descriptor: int) -> None:
        what = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((what.name, path.exists()))

    monkeypatch.setattr("os.fsync", record)
    replace_text(path, "new")
    assert synced == [(".partial-a.json", False), (tmp_path.name, True)]


def test_text_of_any_name_can_be_written(tmp_path: Path) -> None:
    replace_text(tmp_path / "a", "caf\u00e9 \udcff")
    assert (tmp_path / "a").read_text() == "caf\u00e9 \\udcff"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """Break it: write into the folder itself, which would keep files that are no longer made."""
    path = tmp_path / "model"
    replace_folder(path, lambda new: (new / "one").write_text("old"))

    def fail(new: Path) -> None:
        _no_space(new / "one")

    with pytest.raises(RunError, match="No space left"):
        replace_folder(path, fail)
    assert [(p.name, p.read_text()) for p in path.iterdir()] == [("one", "old")]
    replace_folder(path, lambda new: (new / "two").write_text("new"))
    assert [(p.name, p.read_text()) for p in path.iterdir()] == [("two", "new")]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_leaves_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Break it: write under a name that `remove_partial` does not know."""
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    code = (
        "from pathlib import Path; from fedsplit.results.files import *\n"
        f"def write(path):\n    path.write_text('half')\n    {kill}\n"
    )
    (tmp_path / "kept.json").write_text("old")
    for call in ("replace_file", "replace_folder"):
        inner = "lambda new: write(new / 'one')" if call == "replace_folder" else "write"
        program = f"{code}{call}(Path('{tmp_path}') / '{call}', {inner})"
        done = subprocess.run([sys.executable, "-c", program], check=False, env={**os.environ})
        assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]


def test_a_pipe_is_neither_waited_for_nor_taken_for_an_empty_file(tmp_path: Path) -> None:
    """Break it: open whatever has the name; read no lines from what is no file."""
    os.mkfifo(tmp_path / "rounds.jsonl")
    for read in (read_lines, read_object):
        with pytest.raises(OSError, match=r"is a named pipe \(FIFO\), not a file"):
            read(tmp_path / "rounds.jsonl")
    assert read_lines(tmp_path / "none.jsonl") == []


def test_an_object_is_read_up_to_a_length(tmp_path: Path) -> None:
    """Break it: read a file whole, of any length. This one has a hole, and takes no space."""
    path = tmp_path / "summary.json"
    with path.open("wb") as file:
        file.truncate(2**38)
    with pytest.raises(ValueError, match=r"'summary\.json' has more than 268,435,456 bytes"):
        read_object(path)
