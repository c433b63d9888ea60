"""Saved data sets whose JSON files are forged or broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from fedsplit.data.saved import is_saved, read_saved
from fedsplit.errors import DataError
from tests.data.pictures import labelled
from tests.data.strangers import SPECIAL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    labelled([0, 1] * 6).save_to_disk(path)
    return path


def change(path: Path, changes: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    changes(value)
    path.write_text(json.dumps(value))


def test_what_is_whole_is_read(folder: Path, tmp_path: Path) -> None:
    assert is_saved(folder)
    assert not is_saved(tmp_path)
    assert len(read_saved(folder)["train"]) == 12
    parts = {"train": labelled([0, 1]), "test": labelled([1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "two")
    assert {name: len(rows) for name, rows in read_saved(tmp_path / "two").items()} == {
        "train": 2,
        "test": 1,
    }


STATES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "up": (
        lambda state: state["_data_files"][0].update(filename="../x.arrow"),
        r"_data_files is \{'filename': '../x.arrow'\}; it must be objects with the name of a file",
    ),
    "absolute": (
        lambda state: state["_data_files"][0].update(filename="/etc/passwd"),
        "_data_files is .*'/etc/passwd'",
    ),
    "address": (
        lambda state: state["_data_files"][0].update(filename="http://x/a.arrow"),
        "_data_files is .*'http://x/a.arrow'",
    ),
    "number": (lambda state: state["_data_files"][0].update(filename=3), "_data_files is"),
    "no list": (lambda state: state.update(_data_files={"a": 1}), "_data_files is .* be a list"),
    "no files": (lambda state: state.pop("_data_files"), "_data_files is None"),
    "twice": (
        lambda state: state["_data_files"].append(state["_data_files"][0]),
        r"_data_files is 'data-00000-of-00001\.arrow'; it must be there once",
    ),
    "no fingerprint": (lambda state: state.pop("_fingerprint"), "_fingerprint is None"),
    "missing": (
        lambda state: state["_data_files"][0].update(filename="other.arrow"),
        r"has no file '.*other\.arrow'",
    ),
}


def test_a_key_that_is_there_twice_is_refused(folder: Path) -> None:
    """Break it: read the file with `json`, which keeps the last one."""
    path = folder / "state.json"
    path.write_text(path.read_text().replace("{", '{"_data_files": [],', 1))
    with pytest.raises(DataError, match=r"state\.json' of .* .the key '_data_files' is there tw"):
        read_saved(folder)


@pytest.mark.parametrize(("changes", "said"), STATES.values(), ids=STATES)
def test_a_forged_state_is_named(
    folder: Path, changes: Callable[[dict[str, Any]], object], said: str
) -> None:
    """Break it: let `datasets` read what the state names."""
    change(folder / "state.json", changes)
    with pytest.raises(DataError, match=said):
        read_saved(folder)


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '"\\ud800"', "9" * 5000])
def test_json_files_that_are_none_are_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}' of a saved data set"):
        read_saved(folder)


@pytest.mark.parametrize("splits", [["../data"], ["/etc"], [3], "train", None, [""], [".."]])
def test_splits_are_folders_of_the_data_set(folder: Path, splits: object) -> None:
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(DataError, match=r"dataset_dict.json' of a saved data set, splits is"):
        read_saved(folder)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("make", SPECIAL.values(), ids=["pipe", "socket", "device"])
@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "dataset_info.json"])
def test_files_of_a_data_set_are_regular(
    folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    """Break it: let Arrow open whatever has the name; a pipe has no writer."""
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(DataError, match=rf"{name}' of a saved data set is a"):
        read_saved(folder)


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "state.json"])
def test_links_out_of_a_data_set_are_refused_unless_they_are_followed(
    folder: Path, tmp_path: Path, name: str
) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{name}' of a saved data set is a link that leads out"):
        read_saved(folder)
    assert len(read_saved(folder, follow_links=True)["train"]) == 12


def test_unknown_features_are_an_error(folder: Path) -> None:
    change(folder / "dataset_info.json", lambda i: i["features"]["image"].update(_type="Popen"))
    with pytest.raises(DataError, match="cannot be read"):
        read_saved(folder)
