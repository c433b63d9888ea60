"""The commands of a page are run as they are copied from it."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from fedsplit import cli
from fedsplit.config import Config
from fedsplit.report.write import write_report
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("undrawn")


def commands_of(page: Path) -> list[list[str]]:
    found = re.findall(r"<pre>(.*?)</pre>", page.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(html.unescape(command)) for command in found]


def call(command: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def copied(run: Run, to: Path) -> Path:
    """Return a copy of a finished run whose path a shell would take apart."""
    directory = to / "a folder" / "dirichlet(0.1)-it's"
    shutil.copytree(run(num_server_rounds=1).run_dir, directory)
    return directory


@pytest.mark.slow
def test_a_run_can_be_made_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break it: do not quote the path; keep the run-name, which is taken; name no engine."""
    directory = copied(run, tmp_path)
    text = (directory / "config.toml").read_text()
    named = re.sub(r'run-name = ".*"', f'run-name = "{directory.name}"', text)
    assert named != text
    (directory / "config.toml").write_text(named)
    (command,) = commands_of(write_report(directory)[1])
    monkeypatch.chdir(tmp_path)
    assert call(command, monkeypatch) == 0
    (made,) = [path for path in directory.parent.iterdir() if path != directory]
    assert (made / "rounds.jsonl").is_file()
    now, then = (Config.load(path / "config.toml").to_flat() for path in (made, directory))
    assert {key for key in now if now[key] != then[key]} == {"run-name", "output-dir"}


@pytest.mark.slow
def test_an_unfinished_run_can_be_continued(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: do not quote the path, or leave the command out."""
    directory = copied(run, tmp_path)
    (directory / "summary.json").unlink()
    to_continue, _ = commands_of(write_report(directory)[1])
    monkeypatch.chdir(tmp_path)
    assert call(to_continue, monkeypatch) == 0
    assert (directory / "summary.json").is_file()
    assert len(commands_of(write_report(directory)[1])) == 1
