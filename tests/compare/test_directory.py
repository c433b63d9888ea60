from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsplit.compare.directory import find_runs, locked
from fedsplit.compare.made_with import made_with
from fedsplit.compare.runs import Plan, make_plan
from fedsplit.config import Config
from fedsplit.errors import ConfigError
from fedsplit.locks import FileLock
from tests.compare.test_runs import SMALL, VARIANTS, write
from tests.report.examples import write_run


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Its runs are made without training, of no images: see test_made_with.py for these."""
    monkeypatch.setattr("fedsplit.compare.directory.made_with", lambda kept: None)
    return make_plan(write(tmp_path, SMALL + VARIANTS), tmp_path)


def test_a_finished_run_is_found_whatever_its_place_and_concurrency(
    plan: Plan,
) -> None:
    write_run(Config.load(plan.runs[1].config, {"max-concurrent-clients": 3, "console": "quiet"}))
    assert find_runs(plan).finished == {plan.runs[1]}


def test_an_unfinished_run_continues_unless_it_is_another(plan: Plan) -> None:
    """Break it: remove every unfinished run, or take one of another config."""
    done, begun = write_run(plan.runs[0].config), write_run(plan.runs[1].config)
    other = write_run(Config.load(plan.runs[2].config, {"learning-rate": 0.5}))
    for unfinished in (begun, other):
        unfinished.summary_path.unlink()
    found = find_runs(plan)
    assert found.finished == {plan.runs[0]}
    assert list(found.begun) == [plan.runs[1]]
    assert found.begun[plan.runs[1]].resume == str(begun.path)
    assert done.path.is_dir()
    assert begun.path.is_dir()
    assert not other.path.exists()


def test_an_unfinished_run_without_checkpoints_is_removed(plan: Plan) -> None:
    begun = write_run(Config.load(plan.runs[1].config, {"checkpoint-every": 0}))
    begun.summary_path.unlink()
    assert find_runs(plan).begun == {}
    assert not begun.path.exists()


def test_a_run_that_another_process_has_just_begun_is_not_removed(plan: Plan) -> None:
    """Break it: remove whatever cannot continue and has no round yet."""
    begun = write_run(plan.runs[1].config)
    begun.summary_path.unlink()
    lock = FileLock.take(begun.lock_path)
    assert lock is not None
    with pytest.raises(ConfigError, match="is going on in process"):
        find_runs(plan)
    assert begun.config_path.is_file()
    lock.release()


def test_an_unfinished_run_of_another_config_with_rounds_is_not_removed(plan: Plan) -> None:
    """Break it: remove whatever cannot continue; then a changed file costs hours of work."""
    other = write_run(Config.load(plan.runs[2].config, {"learning-rate": 0.5}))
    other.summary_path.unlink()
    state = {"config": Config.load(other.config_path).to_flat()}
    other.checkpoints.write(1, state, [{"round": 1, "test_accuracy": 0.5}])
    with pytest.raises(ConfigError, match=r"other runs .*\n.*cannot continue as another run"):
        find_runs(plan)
    assert other.checkpoints.rounds() == [1]


def test_a_finished_run_of_another_config_is_neither_used_nor_removed(plan: Plan) -> None:
    first, second = (
        write_run(Config.load(run.config, {"learning-rate": 0.5, "split.cut-layer": 2}))
        for run in plan.runs[:2]
    )
    begun = write_run(plan.runs[2].config)
    begun.summary_path.unlink()
    with pytest.raises(ConfigError) as caught:
        find_runs(plan)
    for directory in (first, second):
        assert (
            f"'{directory.path}' differs in learning-rate = 0.5, now 0.001, "
            "split.cut-layer = 2, now 1" in str(caught.value)
        )
    assert "Remove them, or choose another --output-dir or name" in str(caught.value)
    assert first.summary_path.is_file()
    assert begun.path.is_dir()  # nothing is removed


def test_a_finished_run_whose_config_cannot_be_read(plan: Plan) -> None:
    write_run(plan.runs[0].config).config_path.write_text("seed = ")
    with pytest.raises(ConfigError, match=r"a config\.toml that cannot be read"):
        find_runs(plan)


@pytest.mark.parametrize("spoilt", ["{", "[]", '{"num_test_examples": "many"}'])
def test_a_finished_run_whose_summary_cannot_be_read(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    """Break it: take what it was made with from whatever the file holds."""
    monkeypatch.setattr("fedsplit.compare.directory.made_with", made_with)
    kept = write_run(plan.runs[0].config)
    kept.summary_path.write_text(spoilt)
    with pytest.raises(ConfigError) as caught:
        find_runs(plan)
    assert f"'{kept.path}' differs in a summary.json that cannot be read (" in str(caught.value)


def test_a_directory_that_is_no_run_is_left_alone(plan: Plan) -> None:
    plan.runs[0].directory.mkdir(parents=True)
    (plan.runs[0].directory / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"is not the directory of a run"):
        find_runs(plan)
    assert (plan.runs[0].directory / "thesis.tex").is_file()


def test_one_comparison_at_a_time_and_a_child_inherits_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "c") as lock:
        refused = pytest.raises(ConfigError, match=r"Another 'fedsplit compare' is running in")
        with refused, locked(tmp_path / "c"):
            raise AssertionError
        heir = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock]
        )
    try:
        with pytest.raises(ConfigError, match="is running"), locked(tmp_path / "c"):
            raise AssertionError
    finally:
        heir.communicate(b"\n")
    with locked(tmp_path / "c"):
        pass


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = pytest.raises(ConfigError, match="Set --output-dir to a directory")
    with refused, locked(tmp_path / "file" / "c"):
        raise AssertionError
    assert os.listdir(tmp_path) == ["file"]
