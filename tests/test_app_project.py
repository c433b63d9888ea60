from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit.app_project import AppProject
from fedsplit.errors import ConfigError
from fedsplit.new.project import make_project


@pytest.fixture
def app(tmp_path: Path) -> Path:
    make_project(tmp_path / "my-app", "classification")
    return tmp_path / "my-app"


def test_an_app_is_found_at_or_above_a_folder(app: Path) -> None:
    for start in (app, app / "configs"):
        found = AppProject.find(start)
        assert found is not None
        assert found.folder == app
        found.check()
    assert AppProject.find(app.parent) is None
    own = AppProject.find(app.parent, or_own=True)
    assert own is not None
    assert own.folder == Path(__file__).parents[1]
    own.check()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 42\n", "", r"lacks keys.*Add seed = 42"),
        ('name = "my-app"', 'name = "my_app"', r"name = 'my_app'; for Flower it must be"),
        ('publisher = "me"\n', "", r"\[tool\.flwr\.app\] has no publisher"),
        ('version = "0.1.0"\n', "", r"\[project\] has no version"),
        ("fedsplit.server_app:app", "fedsplit.server_app", r"must be module:name"),
        ("fedsplit.client_app:app", "my_ap.client:app", r"there is no module 'my_ap.client'"),
        ('"my_app/**/*.py"', '"my_ap/**/*.py"', r"'my_ap/\*\*/\*\.py', which matches no file"),
        ("seed = 42\n", "sed = 42\n", r"sed = 42.*did you mean 'seed'"),
        ("seed = 42\n", 'seed = "x"\n', r"seed = 'x'"),
    ],
)
def test_each_mistake_is_named(app: Path, old: str, new: str, said: str) -> None:
    """Break it: leave one of the checks to Flower, which says "[code: 15]"."""
    path = app / "pyproject.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    found = AppProject.find(app)
    assert found is not None
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        found.check()


def test_all_mistakes_are_named_at_once(app: Path) -> None:
    path = app / "pyproject.toml"
    path.write_text(path.read_text().replace('publisher = "me"', "").replace("seed = 42\n", ""))
    found = AppProject.find(app)
    assert found is not None
    with pytest.raises(ConfigError, match=r"publisher.*seed = 42"):
        found.check()


@pytest.mark.parametrize("name", ["strategies", "fedsplit"])
def test_a_folder_that_hides_a_package_is_refused(app: Path, name: str) -> None:
    """Break it: look only whether the name can be imported."""
    (app / name).mkdir()
    found = AppProject.find(app)
    assert found is not None
    with pytest.raises(ConfigError, match=rf"would hide the package '{name}'.*rename it"):
        found.check()


def test_what_is_not_toml_is_named(app: Path) -> None:
    (app / "pyproject.toml").write_text("[tool\n")
    with pytest.raises(ConfigError, match=r"pyproject\.toml' is not valid TOML"):
        AppProject.find(app)
