"""The documents are true of the code."""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Call
from tests.preloaded import server

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = {
    module: f"# {module}.py\n{code}"
    for module, code in re.findall(r"```python\n# (my_\w+)\.py\n(.*?)```", EXTENDING, re.DOTALL)
}
"""The examples of docs/extending.md: module -> code."""
COMMANDS = {
    module: command
    for command, module in re.findall(r"^    fedsplit (run .*=(my_\w+):\w+)$", EXTENDING, re.M)
}
"""Module -> the arguments of the command that uses it."""


@pytest.mark.parametrize("page", ["config", "cli"])
def test_the_generated_pages_are_up_to_date(page: str) -> None:
    """Break it: change the description of a config key, or the help of an option."""
    done = server().run([f"docs/make_{page}.py", "--check"], cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(document: Path) -> None:
    links = links_of(document)
    broken = [link for link, _ in links if link and not (document.parent / link).exists()]
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_heading_finds_it(document: Path) -> None:
    """Break it: rename a heading that another page links to."""
    pages = [
        (document.parent / link if link else document, anchor)
        for link, anchor in links_of(document)
        if anchor and (not link or link.endswith(".md"))
    ]
    assert [(page.name, anchor) for page, anchor in pages if anchor not in anchors_of(page)] == []


def test_no_document_has_an_unfilled_place() -> None:
    unfilled = [
        path.name for path in DOCUMENTS if re.search(r"@@|TODO|to be measured", path.read_text())
    ]
    assert unfilled == []


def test_every_example_of_the_page_has_a_command_that_names_it() -> None:
    """Break it: give an example another file name than the one in its command."""
    assert len(EXAMPLES) >= 7
    assert sorted(COMMANDS) == sorted(EXAMPLES)


@pytest.mark.parametrize("module", EXAMPLES)
def test_an_example_of_the_page_passes_the_checks_of_its_run(
    module: str, importable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: name a class in a command that its example does not define."""
    from fedsplit.checking import check, check_shards
    from fedsplit.config import Config

    overrides = dict(setting.split("=", 1) for setting in settings_of(COMMANDS[module]))
    config = Config.load({"num-clients": 10, "output-dir": str(importable / "runs")}, overrides)
    check(config)
    check_shards(config)


@pytest.mark.slow
@pytest.mark.parametrize("module", EXAMPLES)
def test_an_example_of_the_page_trains(module: str, importable: Path, call: Call) -> None:
    """Break it: return the smashed data as a tuple in the example of a defence."""
    small = {
        "num-server-rounds": 1,
        "num-clients": 5,
        "data.max-train-samples": 250,
        "data.max-test-samples": 50,
    }
    arguments = COMMANDS[module].split()
    assert arguments[:2] == ["run", "."]
    code, said = call(
        *("run", str(ROOT), *arguments[2:]),
        *(f"--set={key}={value}" for key, value in small.items()),
        *("--output-dir", str(importable / "runs")),
    )
    assert code == 0, said
    (summary,) = (importable / "runs").glob("*/summary.json")
    scores = json.loads(summary.read_text(encoding="utf-8"))
    assert all(math.isfinite(scores[key]) for key in ("final_loss", "final_accuracy"))


@pytest.mark.slow
def test_the_examples_for_notebooks_run_one_after_another(tmp_path: Path) -> None:
    """And the first result is as printed. Break it: misspell an argument of `simulate`."""
    text = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 5
    script = tmp_path / "notebook.py"
    script.write_text("".join(blocks), encoding="utf-8")
    done = server().run([str(script)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = re.search(r"run directory\.\n\n```\n(.*?)\n```", text, re.DOTALL)
    assert printed is not None
    shown, ran = printed[1].splitlines(), done.stdout.splitlines()
    assert len(shown) == len(ran) == 3
    assert ran[0] == shown[0]
    # Accuracy and bytes; the time is another one.
    assert ran[1].rpartition(",")[0] == shown[1].rpartition(",")[0]


def test_the_worked_example_of_the_protocol_prints_what_the_page_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Break it: change one of the printed numbers."""
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    code = re.search(r"python - <<'EOF'\n(.*?)    EOF\n", text, re.DOTALL)
    printed = re.search(r"The output is\n\n(.*?)\n\n(?=\S)", text, re.DOTALL)
    assert code is not None
    assert printed is not None
    exec(textwrap.dedent(code[1]), {})
    assert capsys.readouterr().out.strip() == textwrap.dedent(printed[1]).strip()


def links_of(document: Path) -> list[tuple[str, str]]:
    """Return the links of a page to files of the project: path, "" for the page itself, anchor."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", text)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def settings_of(command: str) -> list[str]:
    """Return the ``KEY=VALUE`` of every ``--set`` in a command."""
    return re.findall(r"--set (\S+)", command)


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the examples to a folder from which they can be imported; return the folder."""
    for module, code in EXAMPLES.items():
        (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for module in EXAMPLES:
        sys.modules.pop(module, None)
