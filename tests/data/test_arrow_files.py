"""Arrow files with broken bytes end in one sentence: no crash, no hang, no memory."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedsplit.data import arrow_check, arrow_files
from fedsplit.data.arrow_files import check_arrow_files
from fedsplit.data.saved import read_saved
from fedsplit.errors import DataError
from tests.data.pictures import labelled

NAME = "data-00000-of-00001.arrow"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a saved data set."""
    folder = tmp_path_factory.mktemp("data") / "set"
    words = [f"wörd {number}" for number in range(60)]
    labelled([0, 1] * 30).add_column("word", words).save_to_disk(folder)
    return folder


def broken(data: bytes, seed: int) -> bytes:
    """Flip a few bits of a file, more often near its beginning, and cut every tenth."""
    draw = random.Random(seed)
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8])):
        near = draw.random() < 0.7
        place = draw.randrange(3000 if near else len(changed))
        changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed[: draw.randrange(len(changed))] if seed % 10 == 0 else changed)


USE = """
import sys
import pyarrow as pa
from fedsplit.data.arrow_check import fault_of

for path in sys.argv[1:]:
    fault = fault_of(path)
    if not fault:
        with pa.memory_map(path) as file, pa.ipc.open_stream(file) as reader:
            reader.read_all().to_pylist()
    print(fault or "whole", flush=True)
"""


@pytest.mark.slow
def test_what_passes_the_check_can_be_read(whole: Path, tmp_path: Path) -> None:
    """Fuzz 600 files. Break it: leave out `validate`; 15 of 600 files then end the process."""
    data = (whole / NAME).read_bytes()
    paths = [tmp_path / f"{seed}.arrow" for seed in range(600)]
    for seed, path in enumerate(paths):
        path.write_bytes(broken(data, seed))
    command = [sys.executable, "-c", USE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(said) == 600
    assert 100 < said.count("whole") < 500


def forged_offsets() -> bytes:
    """Return a file whose second value ends far behind the end of its buffer."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("image", pa.binary())])) as writer:
        writer.write_table(pa.table({"image": pa.array([b"abc", b"def"], pa.binary())}))
    right, wrong = (np.array([0, 3, end], dtype=np.int32).tobytes() for end in (6, 2**30))
    data = bytes(sink.getvalue().to_pybytes())
    assert data.count(right) == 1
    return data.replace(right, wrong)


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "offsets"])
def test_a_broken_file_is_one_sentence(whole: Path, tmp_path: Path, kind: str) -> None:
    """Break it: let `datasets` read the file first."""
    contents = {
        "cut": (whole / NAME).read_bytes()[:5000],
        "empty": b"",
        "text": b"<html>not found</html>",
        "offsets": forged_offsets(),
    }
    for file in whole.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / NAME).write_bytes(contents[kind])
    with pytest.raises(DataError) as caught:
        read_saved(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"The saved data set '{tmp_path}' is broken: '{NAME}' is no whole Arrow")
    assert said.endswith("Copy it again, or save it again with save_to_disk.")


def test_a_file_that_claims_to_hold_a_terabyte_is_refused(tmp_path: Path) -> None:
    """Break it: check without a limit of memory, which 4 GiB of zeros then take."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    zeros = pa.array(np.zeros(2**27, dtype=np.int64))
    with pa.ipc.new_stream(sink, pa.schema([("x", pa.int64())]), options=options) as writer:
        for _ in range(4):
            writer.write_table(pa.table({"x": zeros}))
    (tmp_path / "x.arrow").write_bytes(sink.getvalue())
    assert (tmp_path / "x.arrow").stat().st_size < 2**20
    with pytest.raises(DataError, match=r"ArrowMemoryError|emory"):
        check_arrow_files([tmp_path / "x.arrow"], "x")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            r"ends a process \(signal 11\)",
        ),
        ("import time; time.sleep(60)", "took more than 1 s"),
        ("raise SystemExit('no pyarrow')", "cannot be checked: no pyarrow"),
    ],
)
def test_a_check_that_ends_badly_ends_no_run(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    """Break it: check within this process."""
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(arrow_check, "__file__", str(tmp_path / "program.py"))
    monkeypatch.setattr(arrow_files, "TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(arrow_files, "_whole", set())
    with pytest.raises(DataError, match=rf"The saved data set 'mine' is broken: .*{said}"):
        check_arrow_files([whole / NAME], "mine")


def test_a_file_is_checked_once_until_it_changes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: check at each look, or never again."""
    path = tmp_path / NAME
    path.write_bytes((whole / NAME).read_bytes())
    starts: list[object] = []
    run = subprocess.run

    def counted(*given: object, **options: object) -> object:
        starts.append(given)
        return run(*given, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", counted)
    for _ in range(3):
        check_arrow_files([path], "mine")
    assert len(starts) == 1
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError):
        check_arrow_files([path], "mine")
    assert len(starts) == 2
