from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsplit.errors import RunError
from fedsplit.results.checkpoints import Checkpoints

ACCURACIES = [0.3, 0.7, 0.5, 0.7, None, 0.6]


def _rows(count: int) -> list[dict[str, object]]:
    return [{"round": n + 1, "test_accuracy": ACCURACIES[n]} for n in range(count)]


def _written(folder: Path, count: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for n in range(1, count + 1):
        state = {"round": n, "weights": {"a": torch.full((3,), float(n))}}
        checkpoints.write(n, state, _rows(n))
    return checkpoints


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    """Break it: keep the last of several equally good rounds; remove before writing."""
    kept = {n: _written(tmp_path / str(n), n).rounds() for n in range(1, 7)}
    assert kept == {1: [1], 2: [1, 2], 3: [2, 3], 4: [2, 3, 4], 5: [2, 4, 5], 6: [2, 5, 6]}
    assert Checkpoints(tmp_path / "6").best_round(_rows(6)) == 2
    assert Checkpoints(tmp_path / "6").best_round([]) is None


def test_a_state_comes_back_whole_and_its_values_alone(tmp_path: Path) -> None:
    checkpoints = _written(tmp_path / "c", 2)
    assert torch.equal(checkpoints.load(2)["weights"]["a"], torch.full((3,), 2.0))
    last = checkpoints.last()
    assert last is not None
    server_round, values = last
    assert (server_round, values["round"]) == (2, 2)
    assert (values["weights"]["a"].device.type, values["weights"]["a"].shape) == ("meta", (3,))


@pytest.mark.parametrize("length", [0, 7, 8, 40, -1])
def test_an_incomplete_file_gives_the_one_before_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    """Break it: look at the file's name only."""
    checkpoints = _written(tmp_path / "c", 2)
    path = tmp_path / "c" / "round-000002.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    last = checkpoints.last()
    assert last is not None
    assert last[0] == 1
    assert "round-000002.safetensors' cannot be read as a saved state" in caplog.text
    with pytest.raises(RunError, match="incomplete"):
        checkpoints.load(2)


def test_a_file_with_a_changed_bit_gives_the_one_before_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: read tensors without a checksum. The run goes on, with other weights."""
    checkpoints = Checkpoints(tmp_path / "c")
    for server_round in (1, 2):
        state = {"round": server_round, "w": torch.full([1000], float(server_round))}
        checkpoints.write(server_round, state, [])
    path = sorted(checkpoints.folder.iterdir())[-1]
    data = bytearray(path.read_bytes())
    data[-2000] ^= 0x40
    path.write_bytes(data)
    last = checkpoints.load_last()
    assert last is not None
    assert last["round"] == 1
    assert "its checksum is that of other bytes" in caplog.text


def test_later_rounds_and_partial_files_are_removed(tmp_path: Path) -> None:
    checkpoints = _written(tmp_path / "c", 3)
    (tmp_path / "c" / ".partial-round-000004.safetensors").write_text("half")
    (tmp_path / "c" / "notes.txt").write_text("mine")
    checkpoints.remove_after(2)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        *("round-000002.safetensors", "notes.txt")
    }


def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    """Break it: open whatever is called like one; a pipe is waited for."""
    checkpoints = _written(tmp_path / "checkpoints", 1)
    os.mkfifo(checkpoints.folder / "round-000002.safetensors")
    assert checkpoints.rounds() == [1]


def test_without_a_folder_there_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").rounds() == []
    assert Checkpoints(tmp_path / "none").last() is None
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Cannot write .*file/c"):
        Checkpoints(tmp_path / "file" / "c").write(1, {}, [])


@pytest.mark.parametrize("value", [5, "x", [1], None, True])
def test_a_whole_file_that_no_run_has_saved_gives_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: object
) -> None:
    """Break it: trust whatever has the right checksum."""
    facts = {"engine": "flower"}
    checkpoints, good = Checkpoints(tmp_path / "checkpoints"), {"recorder": {"facts": facts}}
    checkpoints.write(1, good, [])
    spoilt: list[dict[str, Any]] = [
        *({key: value} for key in ("versions", "config", "inputs", "arrays", "strategy")),
        *({"inputs": {key: value}} for key in ("class_counts", "shards", "validation")),
        *({"recorder": each} for each in (value, {"facts": value}, {"rows": {"a": value}})),
        {"recorder": {"facts": {"engine": [value]}}},
        {"round": [value]},
    ]
    for state in spoilt:
        checkpoints.write(2, state, [])
        for found in (checkpoints.load_last(), (checkpoints.last() or (0, {}))[1]):
            assert found == good
    assert caplog.text.count("is not what a run has saved") == 2 * len(spoilt)
