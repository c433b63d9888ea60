from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit import Config
from fedsplit.absolute_paths import with_absolute_paths


def test_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "model"):
        (tmp_path / name).mkdir()
    config = with_absolute_paths(
        Config.load({"data.name": "photos", "model.name": "./model", "output-dir": "out"})
    )
    assert config.data.name == str(tmp_path / "photos")
    assert config.model.name == str(tmp_path / "model")
    assert config.output_dir == str(tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("data.name", "fashion-mini"),
        ("model.name", "vit-nano"),
        ("data.name", "package.module:make"),
        ("model.name", "package.module:make"),
        ("data.name", "__main__:make"),
    ],
)
def test_names_that_are_no_paths_stay(
    key: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: ask for a folder before asking what else the name may be."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert with_absolute_paths(Config.load({key: name})).to_flat()[key] == name


def test_names_of_no_folder_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(Config.load({"data.name": "ylecun/mnist"}))
    assert config.data.name == "ylecun/mnist"
