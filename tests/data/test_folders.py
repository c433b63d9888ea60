from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest

from fedsplit.data.folders import read_folder
from fedsplit.errors import DataError
from tests.data.pictures import image_folder, labelled


def test_class_folders_below_splits(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", {"dog": 2, "cat": 3})
    image_folder(tmp_path / "test", {"cat": 1, "fox": 1})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    splits = read_folder(tmp_path)
    assert list(splits) == ["train", "test"]
    assert splits["train"]["label"][:] == [0, 0, 0, 1, 1]
    assert splits["test"]["label"][:] == [0, 2], "one numbering for all splits"
    assert splits["test"].features["label"].names == ["cat", "dog", "fox"]
    assert splits["train"][0]["image"].size == (8, 8)


def test_class_folders_without_splits(tmp_path: Path) -> None:
    splits = read_folder(image_folder(tmp_path, {"b": 1, "a": 2}))
    assert splits["train"]["label"][:] == [0, 0, 1]


def test_saved_data_sets(tmp_path: Path) -> None:
    labelled([0, 1]).save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": labelled([0, 1]), "valid": labelled([1])}).save_to_disk(
        tmp_path / "dict"
    )
    assert {split: len(d) for split, d in read_folder(tmp_path / "one").items()} == {"train": 2}
    sizes = {split: len(d) for split, d in read_folder(tmp_path / "dict").items()}
    assert sizes == {"train": 2, "valid": 1}


def test_a_folder_is_left_as_it_was(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 2})
    before = sorted(os.walk(tmp_path))
    read_folder(tmp_path)
    assert sorted(os.walk(tmp_path)) == before


def test_a_folder_without_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(DataError, match="holds no data set"):
        read_folder(tmp_path)


def test_a_broken_saved_data_set(tmp_path: Path) -> None:
    labelled([0, 1]).save_to_disk(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="Save it again with save_to_disk"):
        read_folder(tmp_path)
