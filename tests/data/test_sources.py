from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit.data.folders import FolderState
from fedsplit.data.sources import (
    Bundled,
    FunctionResult,
    HubDataset,
    held,
    is_held,
    is_local,
    read,
    source_of,
)
from fedsplit.errors import ConfigError, DataError
from tests.data.pictures import image_folder

DIGITS = "tests.data.own_sets:digits"


def test_where_a_name_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "fashion-mini", {"a": 1})
    image_folder(tmp_path / DIGITS, {"a": 1})
    image_folder(tmp_path / "photos", {"a": 1})
    assert source_of("fashion-mini") == Bundled("fashion-mini")
    assert isinstance(source_of(DIGITS), FunctionResult)
    assert isinstance(source_of(f"./{DIGITS}"), FolderState)
    assert isinstance(source_of("photos"), FolderState)
    assert source_of("ylecun/mnist") == HubDataset("ylecun/mnist")
    with pytest.raises(DataError, match=r"'a/b/c' \(data.name\) does not exist"):
        source_of("a/b/c")
    with pytest.raises(ConfigError, match="cannot be imported"):
        source_of("no_such_package:make")


def test_what_needs_no_download(tmp_path: Path) -> None:
    assert is_local("fashion-mini")
    assert is_local(DIGITS)
    assert is_local(str(tmp_path))
    assert not is_local("ylecun/mnist")


def test_each_look_at_a_function_is_a_new_state() -> None:
    first = source_of(DIGITS)
    assert source_of(DIGITS, look=False) is first
    second = source_of(DIGITS)
    assert second != first
    assert source_of(DIGITS, look=False) is second


def test_what_a_run_holds_stays_for_everyone(tmp_path: Path) -> None:
    """Break it: look in `source_of` before asking whether the name is held."""
    name = str(image_folder(tmp_path, {"a": 1}))
    with held(name) as outer:
        image_folder(tmp_path, {"b": 1})
        assert source_of(name) == source_of(name, look=False) == outer
        with held(name) as inner:
            assert inner == outer
        assert is_held(outer), "the outer block goes on"
        assert source_of(name) == outer
    assert not is_held(outer)
    assert source_of(name, look=False) != outer, "the next run finds the change"


def test_a_folder_is_read_where_it_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name in (("x", "a"), ("y", "b")):
        image_folder(tmp_path / place / "photos", {name: 1})
    monkeypatch.chdir(tmp_path / "x")
    with held("photos") as source:
        monkeypatch.chdir(tmp_path / "y")
        assert read(source)["train"].features["label"].names == ["a"]


def test_a_data_set_that_is_not_there_is_not_held() -> None:
    with pytest.raises(DataError), held("/no/such/folder"):
        pass
    with pytest.raises(DataError):
        source_of("/no/such/folder", look=False)


def test_a_subset_is_for_data_sets_of_the_hub() -> None:
    assert source_of("a/b", "fine") == HubDataset("a/b", "fine") != source_of("a/b")
    with pytest.raises(DataError, match=r"data.config-name = 'fine' names a subset"):
        source_of("fashion-mini", "fine")
