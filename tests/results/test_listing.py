from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fedsplit import simulate
from fedsplit.errors import ConfigError
from fedsplit.results.listing import ListedRun, list_runs, runs_table
from fedsplit.results.run_directory import RunDirectory


@pytest.fixture
def folder(tiny: dict[str, object], undrawn: None) -> Path:
    """Three runs: one finished, one interrupted after its first round, one not begun."""
    first = simulate(tiny, run_name="finished", num_server_rounds=2)
    half = simulate(tiny, run_name="half", num_server_rounds=2).run_dir
    (half / "summary.json").unlink()
    lines = (half / "rounds.jsonl").read_text().splitlines(keepends=True)
    (half / "rounds.jsonl").write_text(lines[0] + lines[1][:20])
    return first.run_dir.parent


def test_runs_are_listed_with_state_rounds_and_accuracy(folder: Path) -> None:
    """Break it: take a line that is being written for a round."""
    (folder / "foreign").mkdir()
    (folder / "foreign" / "config.toml").write_text("[other]\nprogram = 1\n")
    found = {run.path.name: run for run in list_runs(folder)}
    assert set(found) == {"finished", "half"}
    states = [(found[name].state, found[name].rounds) for name in ("finished", "half")]
    assert states == [("finished", "2/2"), ("interrupted", "1/2")]
    row = json.loads((folder / "half" / "rounds.jsonl").read_text().splitlines()[0])
    assert found["half"].accuracy == row["test_accuracy"]
    text = runs_table(list(found.values()), folder)
    assert f"interrupted  sflv1     1/2       {row['test_accuracy']:.4f}" in text
    assert "  half" in text
    assert text.endswith(f" in {folder}")
    assert max(map(len, text.splitlines()[:-1])) <= 80


def test_a_run_that_has_failed_is_listed_as_such_until_it_continues(folder: Path) -> None:
    """Break it: keep the error of a run that continues."""
    (folder / "half" / "error.txt").write_text("RunError: no\n")
    states = {run.path.name: run.state for run in list_runs(folder)}
    assert states == {"finished": "finished", "half": "failed"}
    simulate(resume=folder / "half")
    assert {run.state for run in list_runs(folder)} == {"finished"}
    assert not (folder / "half" / "error.txt").exists()


@pytest.mark.parametrize("damage", [b'{"round": 2, \0\0\0\n', b"\xff\n", b"[]\n", b"{}\n"])
def test_a_damaged_run_does_not_hide_the_others(folder: Path, damage: bytes) -> None:
    """Break it: let the error of one rounds.jsonl through; a power cut may leave such a line."""
    with (folder / "finished" / "rounds.jsonl").open("ab") as file:
        file.write(damage)
    found = {run.path.name: run for run in list_runs(folder)}
    assert (found["finished"].state, found["finished"].rounds) == ("damaged", "?/2")
    assert found["half"].state == "interrupted"
    assert len(simulate(resume=folder / "finished", num_server_rounds=3).rounds) == 3


def test_what_is_no_file_is_no_run(folder: Path) -> None:
    """Break it: ask every config.toml for its time, or open it; a pipe is waited for."""
    for name in ("pipe", "dangling"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe" / "config.toml")
    (folder / "dangling" / "config.toml").symlink_to("/nowhere")
    (folder / "half" / ".lock").unlink()
    os.mkfifo(folder / "half" / ".lock")
    assert {run.path.name for run in list_runs(folder)} == {"finished", "half"}


def test_a_run_that_a_process_makes_is_running(folder: Path) -> None:
    directory = RunDirectory(folder / "half")
    directory._hold()
    try:
        states = {run.path.name: run.state for run in list_runs(folder)}
    finally:
        directory.close()
    assert states == {"finished": "finished", "half": "running"}


def test_long_names_are_folded_on_a_terminal_and_whole_in_a_pipe(tmp_path: Path) -> None:
    """Break it: never fold; the rule below the header is then wider than the terminal."""
    name = "-".join(["dirichlet(0.5)"] * 7)
    runs = [ListedRun(tmp_path / name, "finished", "2/2", 0.5, "sflv2")]
    lines = runs_table(runs, tmp_path, width=80).splitlines()[:-1]
    assert max(map(len, lines)) <= 80
    assert name in "".join(line[39:].strip() for line in lines)
    assert any(line.endswith(name) for line in runs_table(runs, tmp_path).splitlines())


@pytest.mark.parametrize("width", range(10, 70, 3))
def test_no_column_is_lost_on_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    """Break it: fold into whatever width there is; the directory and half of the state go."""
    runs = [ListedRun(tmp_path / "one", "interrupted", "10/20", 0.5, "centralized")]
    row = runs_table(runs, tmp_path, width=width).split()
    for value in ("interrupted", "centralized", "10/20", "0.5000", "one"):
        assert value in row


def test_a_folder_without_runs(tmp_path: Path) -> None:
    assert runs_table(list_runs(tmp_path), tmp_path) == f"No runs in '{tmp_path}'."
    with pytest.raises(ConfigError, match=r"no folder.*output-dir"):
        list_runs(tmp_path / "nowhere")
