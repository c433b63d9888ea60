"""A disk that is full at any write: one message says so, and nothing that was kept is lost."""

from __future__ import annotations

import builtins
import errno
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from transformers import modeling_utils

from fedsplit import simulate
from fedsplit.errors import FedSplitError
from fedsplit.split import copies
from tests.conftest import TINY, Run
from tests.test_continuation import assert_same_results

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow, pytest.mark.timeout(600)]
KEYS: dict[str, object] = {
    **{"strategy": "sflv1", "num-clients": 2, "num-server-rounds": 2, "local-epochs": 1},
    **{"data.max-train-samples": 40, "data.max-test-samples": 16},  # what is written stays the same
}


class FullDisk:
    """Counts the files that are opened for writing below a folder; from the n-th on, it is full."""

    def __init__(self, folder: Path, fails_from: int) -> None:
        self._folder = str(folder)
        self._fails_from = fails_from
        self.writes: list[str] = []

    def check(self, path: object) -> None:
        if isinstance(path, str | os.PathLike) and str(path).startswith(self._folder):
            self.writes.append(str(path))
            if len(self.writes) >= self._fails_from:
                Path(str(path)).touch()  # the name still fits, and nothing of the content
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, disk: FullDisk) -> Iterator[None]:
    real_open, real_save = io.open, safetensors.torch.save_file

    def open_file(*given: Any, **named: Any) -> object:  # noqa: ANN401 - what open takes
        mode = given[1] if len(given) > 1 else named.get("mode", "r")
        if set(mode) & set("wax+"):
            disk.check(given[0])
        return real_open(*given, **named)

    def save_file(*given: Any, **named: Any) -> None:  # noqa: ANN401 - what save_file takes
        try:
            disk.check(given[1])
        except OSError as error:  # as the library says it
            raise safetensors.SafetensorError(
                f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
            ) from None
        real_save(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", open_file)
        patch.setattr(io, "open", open_file)
        patch.setattr(safetensors.torch, "save_file", save_file)
        patch.setattr(copies, "save_file", save_file)
        patch.setattr(modeling_utils, "safe_save_file", save_file)
        yield


def test_a_disk_that_is_full_at_any_write_loses_nothing_that_was_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: write any file of a run directory in place, or lose an error on the way."""
    unbroken = run(**KEYS)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    messages: list[str] = []
    for number in range(1, 200):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        disk = FullDisk(folder, number)
        with full_disk(monkeypatch, disk):
            fault = _fault_of({**KEYS, "output-dir": str(folder), "run-name": "one"})
        if fault is None:
            break
        messages.append(fault)
        assert "No space left on device" in fault, (disk.writes[-1], fault)
        assert str(folder) in fault
        directory = folder / "one"
        assert list(directory.rglob(".partial-*")) == []
        assert list((tmp_path / "tmp").iterdir()) == []
        assert not (directory / "summary.json").exists()
        if (directory / "config.toml").exists():
            assert_same_results(unbroken, simulate(resume=directory))
            assert list(directory.rglob(".partial-*")) == []
    assert number == 22  # a run of two rounds writes 21 times
    assert any("fedsplit run --resume" in message for message in messages)


def test_a_full_folder_for_temporary_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    disk = FullDisk(tmp_path / "tmp", 1)
    with full_disk(monkeypatch, disk):
        fault = _fault_of({**KEYS, "output-dir": str(tmp_path / "runs")})
    assert fault is not None
    assert "Every participant of round 1 failed" in fault
    assert str(tmp_path / "tmp" / "fedsplit-copies-") in fault
    assert "No space left on device" in fault


def _fault_of(keys: Mapping[str, object]) -> str | None:
    try:
        simulate({**TINY, **keys})
    except FedSplitError as error:
        return str(error)
    return None
