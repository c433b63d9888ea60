from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import nbformat
import pytest

from fedsplit import Config, simulate
from fedsplit.cli.project import TemplateName
from fedsplit.errors import ConfigError
from fedsplit.new.project import make_project


@pytest.mark.parametrize("template", [template.value for template in TemplateName])
def test_an_app_has_every_key_with_its_meaning(tmp_path: Path, template: str) -> None:
    """Break it: leave out a section, or write a default of one's own."""
    said = make_project(tmp_path / "my-app", template)
    assert f"cd {tmp_path / 'my-app'}" in said
    text = (tmp_path / "my-app" / "pyproject.toml").read_text()
    values = tomllib.loads(text)["tool"]["flwr"]["app"]["config"]
    given, defaults = Config.from_flat(values).to_flat(), Config().to_flat()
    changed = {key for key in defaults if given[key] != defaults[key]}
    assert changed == {"strategy", *(["model.name"] if template == "own-model" else [])}
    lines = text.splitlines()
    row = lines.index("batch-size = 32")
    assert lines[row - 1].startswith("# ")
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("template", [template.value for template in TemplateName])
def test_its_files_are_valid(tmp_path: Path, template: str) -> None:
    app = tmp_path / "my-app"
    make_project(app, template)
    files = {str(path.relative_to(app)) for path in app.rglob("*") if path.is_file()}
    assert {"pyproject.toml", "README.md", "configs/uneven.toml", "tests/test_app.py"} <= files
    assert {"my_app/strategy.py", "notebooks/first_run.ipynb"} <= files
    assert ("my_app/model.py" in files) == (template == "own-model")
    for path in app.rglob("*.py"):
        ast.parse(path.read_text())
    notebook = nbformat.read(app / "notebooks" / "first_run.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells][:2] == ["markdown", "code"]
    config = Config.load(app / "configs" / "uneven.toml")
    assert config.strategy == "my_app.strategy:Strategy"
    assert (app / "configs" / "uneven.toml").read_text().startswith("# fedsplit run configs/")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("strategies", "would hide another"),
        ("json", "would hide another"),
        ("torch", "would hide another"),
        ("1st", "No Python package"),
        ("class", "No Python package"),
        ("---", "No Python package"),
        ("a" * 33, "at most 32 letters"),
    ],
)
def test_a_name_that_cannot_be_a_package_is_refused(tmp_path: Path, name: str, said: str) -> None:
    """Break it: `fedsplit new json`, and the app's package hides the library."""
    with pytest.raises(ConfigError, match=said):
        make_project(tmp_path / name, "classification")
    assert not (tmp_path / name).exists()


def test_a_folder_with_something_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        make_project(tmp_path, "classification")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_app_depends_on_the_fedsplit_that_made_it(tmp_path: Path) -> None:
    """Break it: depend on the index only, where another version may be, or none."""
    make_project(tmp_path / "my-app", "classification")
    project = tomllib.loads((tmp_path / "my-app" / "pyproject.toml").read_text())
    (needed,) = project["project"]["dependencies"]
    assert needed.startswith("fedsplit==")
    source = project["tool"]["uv"]["sources"]["fedsplit"]
    assert json.dumps(source["path"]) == json.dumps(str(Path(__file__).parents[2]))


def test_the_metric_of_own_strategy_counts_examples_and_not_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smaller last batch counts as its images. Break it: take the mean over batches."""
    make_project(tmp_path / "weighted", "own-strategy")
    monkeypatch.syspath_prepend(tmp_path / "weighted")
    found = [
        simulate(
            {"strategy": "weighted.strategy:Strategy", "batch-size": size, "num-clients": 2},
            **{"data.max-train-samples": 40, "data.max-test-samples": 10, "learning-rate": 1e-12},
            num_server_rounds=1,
            output_dir=str(tmp_path),
            verbose=False,
        ).summary["penalty"]
        for size in (17, 40)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
