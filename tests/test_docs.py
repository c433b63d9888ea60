"""The documents are true of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]


def test_the_table_of_config_keys_is_up_to_date() -> None:
    command = [sys.executable, "docs/make_config.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_within_the_project_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    broken = [link for link in links if not (document.parent / link).exists()]
    assert broken == []


def test_no_document_has_an_unfilled_place() -> None:
    unfilled = [
        path.name for path in DOCUMENTS if re.search(r"@@|TODO|to be measured", path.read_text())
    ]
    assert unfilled == []


@pytest.mark.slow
def test_the_models_of_your_own_in_the_document_train(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(# my_models\.py\n.*?)```", text, re.DOTALL)
    assert code is not None
    (tmp_path / "my_models.py").write_text(code[1], encoding="utf-8")
    command = re.search(r"^    fedsplit (run .*my_models:make)$", text, re.MULTILINE)
    assert command is not None
    small = ["num-server-rounds=1", "data.max-train-samples=500", "data.max-test-samples=50"]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("fedsplit")), *command[1].split()]
        + [f"--set={setting}" for setting in small]
        + ["--output-dir", str(tmp_path / "runs")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("*/model/model.safetensors"))) == 1
