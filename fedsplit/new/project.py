"""``fedsplit new``: a small Flower app of one's own, from a template."""

from __future__ import annotations

import json
import keyword
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedsplit.app_project import APP_NAME
from fedsplit.config.table import config_table
from fedsplit.errors import ConfigError, cannot_write
from fedsplit.results.files import replace_text

_TAKEN = {"fedsplit", "strategies", "tests", "notebooks", "configs"}


def make_project(directory: Path, template: str) -> str:
    """Make an app, and return what to do with it.

    Parameters
    ----------
    directory : Path
        Its folder. It must not exist, or be empty. The package gets the folder's name.
    template : str
        ``classification``, ``own-strategy`` or ``own-model``.

    Raises
    ------
    ConfigError
        If the folder is not empty, or no package can have its name.
    RunError
        If it cannot be written.
    """
    directory = directory.expanduser().absolute()
    package = _package_name(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            f"'{directory}' exists and is not an empty folder; nothing was changed. Give another "
            "name."
        )
    files = _files(package, template)
    try:
        for name, text in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, text)
    except OSError as error:
        raise cannot_write(directory, error) from None
    return (
        _environment()
        .get_template("next.txt.j2")
        .render(directory=directory, quoted=shlex.quote(str(directory)), package=package)
    )


def _files(package: str, template: str) -> dict[str, str]:
    """Return the text of each file by its path."""
    environment = _environment()
    changes: dict[str, object] = {"strategy": f"{package}.strategy:Strategy"}
    if template == "own-model":
        changes["model.name"] = f"{package}.model:make"
    values = {
        "package": package,
        "name": package.replace("_", "-"),
        "template": template,
        "version": version("fedsplit"),
        "source": _source(),
        "config_table": config_table(changes),
    }

    def render(name: str) -> str:
        return environment.get_template(f"{name}.j2").render(values)

    files = {
        "pyproject.toml": render("pyproject.toml"),
        "README.md": render("README.md"),
        ".gitignore": render("gitignore"),
        "configs/uneven.toml": render("uneven.toml"),
        "configs/compare.toml": render("compare.toml"),
        f"{package}/__init__.py": f'"""The app {package}: federated split learning."""\n',
        f"{package}/strategy.py": render(
            "own_strategy.py" if template == "own-strategy" else "strategy.py"
        ),
        "tests/test_app.py": render("test_app.py"),
        "notebooks/first_run.ipynb": _notebook(render("first_run.md")),
    }
    if template == "own-model":
        files[f"{package}/model.py"] = render("model.py")
    return files


def _environment() -> Environment:
    return Environment(  # it makes Python and TOML, not HTML
        loader=PackageLoader("fedsplit.new"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,
    )


def _package_name(directory: Path) -> str:
    """Return the folder's name as that of a package which hides no other.

    Raises
    ------
    ConfigError
        If there is none.
    """
    name = re.sub(r"[^a-z0-9]+", "_", directory.name.lower()).strip("_")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigError(
            f"No Python package can have the name '{directory.name}'. Give the folder a name of "
            "letters and digits that begins with a letter, such as my-app."
        )
    if not APP_NAME.fullmatch(name.replace("_", "-")):
        raise ConfigError(
            f"Flower takes no app with the name '{directory.name}': at most 32 letters, digits and "
            "hyphens. Give the folder a shorter name."
        )
    if name in _TAKEN or name in sys.stdlib_module_names or _is_installed(name):
        raise ConfigError(
            f"A package called '{name}' would hide another one of this name. Give the folder "
            f"another name, such as my-{directory.name}."
        )
    return name


def _is_installed(name: str) -> bool:
    from importlib.metadata import packages_distributions

    return name in packages_distributions()


def _source() -> str:
    """Return where pip or uv got fedsplit from, as an entry of [tool.uv.sources]; "" = an index."""
    try:
        text = distribution("fedsplit").read_text("direct_url.json")
    except PackageNotFoundError:
        return ""
    if text is None:
        return ""
    origin: dict[str, Any] = json.loads(text)
    url = urlparse(origin["url"])
    if url.scheme == "file":
        editable = origin.get("dir_info", {}).get("editable", False)
        path = json.dumps(unquote(url.path), ensure_ascii=False)
        return f"{{ path = {path}{', editable = true' if editable else ''} }}"
    if "vcs_info" in origin:
        commit = origin["vcs_info"]["commit_id"]
        return f'{{ git = "{origin["url"]}", rev = "{commit}" }}'
    return f'{{ url = "{origin["url"]}" }}'


def _notebook(text: str) -> str:
    """Return a text of Markdown, with its Python in fences, as a notebook."""
    cells: list[dict[str, object]] = []
    for number, part in enumerate(re.split(r"```python\n(.*?)```\n", text, flags=re.DOTALL)):
        source = part.strip("\n")
        if source:
            kind = "code" if number % 2 else "markdown"
            empty: dict[str, object] = {"execution_count": None, "outputs": []}
            extra = empty if number % 2 else {}
            lines = source.splitlines(keepends=True)
            cells.append({"cell_type": kind, "metadata": {}, "source": lines, **extra})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
