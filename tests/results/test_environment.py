from __future__ import annotations

import re
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from fedsplit.fields import ENVIRONMENT_KEYS
from fedsplit.results.environment import commit_of, continued_in, environment


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a git checkout with one committed file."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "somebody@example.org")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def head_of(checkout: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_the_place_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment("cpu")
    assert tuple(found) == ENVIRONMENT_KEYS
    assert found["device"] == "cpu"
    assert re.fullmatch(r".+, \d+ cores?", found["cpu"] or "")
    started = datetime.fromisoformat(found["started_at"] or "")
    assert started.tzinfo is not None
    assert abs((datetime.now().astimezone() - started).total_seconds()) < 60


def test_a_clean_checkout_has_its_commit(checkout: Path) -> None:
    assert commit_of(checkout / "package" / "__init__.py") == head_of(checkout)


@pytest.mark.parametrize("name", ["package/__init__.py", "new.py"])
def test_a_changed_checkout_says_so(checkout: Path, name: str) -> None:
    """Break it: do not ask for changes, or only for those of tracked files."""
    (checkout / name).write_text("changed = True\n")
    said = commit_of(checkout / "package" / "__init__.py")
    assert said == f"{head_of(checkout)} with uncommitted changes"


def test_a_file_that_the_checkout_does_not_track_has_no_commit(checkout: Path) -> None:
    """Break it: ask for HEAD alone: an installed package gets the commit of what is around it."""
    installed = checkout / ".venv" / "package" / "__init__.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    assert commit_of(installed) is None


def test_variables_of_a_hook_do_not_count(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: pass all variables on to git."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    found = commit_of(checkout / "package" / "__init__.py")
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    assert found == head_of(checkout)


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert commit_of(checkout / "package" / "__init__.py") is None


def test_a_run_that_continues_elsewhere_says_so() -> None:
    """Break it: keep the facts of the beginning."""
    began = {"started_at": "a", "device": "cpu", "cpu": "A", "commit": None, "engine": "flower"}
    same = continued_in(began, began | {"started_at": "b"}, 2)
    assert same == began
    moved = continued_in(began, began | {"cpu": "B", "commit": "c0ffee"}, 2)
    assert moved["cpu"] == "A; from round 3: B"
    assert moved["commit"] == "not known; from round 3: c0ffee"
    assert moved["started_at"] == "a"
    again = continued_in(moved, moved | {"cpu": "B", "commit": "c0ffee"}, 5)
    assert again == moved  # it has not moved since
    back = continued_in(moved, moved | {"cpu": "A", "commit": "c0ffee"}, 5)
    assert back["cpu"] == "A; from round 3: B; from round 6: A"


def test_the_images_of_a_run_are_those_of_all_sites_that_have_been_there() -> None:
    """Break it: keep the numbers with which the run began, or take those of now."""
    began = {"engine": "flower", "num_train_examples": 10, "num_validation_examples": None}
    now = {**began, "num_train_examples": 15, "num_validation_examples": 2}
    assert continued_in(began, now, 2) == now
    assert continued_in(now, {**now, "num_train_examples": 5}, 3) == now
