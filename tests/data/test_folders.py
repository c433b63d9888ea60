from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from fedsplit.data.folders import folder_state, read_folder
from fedsplit.errors import DataError
from tests.data.pictures import image_folder, labelled, picture


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


def test_hidden_entries_are_no_data(tmp_path: Path) -> None:
    image_folder(tmp_path, {"cat": 2, ".cache": 1, "__MACOSX": 1, "cat/.thumbs": 1, "cat/more": 1})
    (tmp_path / "cat" / "._000.png").write_bytes(b"what macOS keeps beside a file")
    splits = read_folder(tmp_path)
    assert splits["train"].features["label"].names == ["cat"]
    assert len(splits["train"]) == 3
    with pytest.raises(DataError, match="holds no data set"):
        read_folder(image_folder(tmp_path / "b", {".git": 1}))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
@pytest.mark.parametrize("entry", [b"caf\xe9", b"cat/caf\xe9.png"])
def test_names_that_are_not_utf8_are_refused(tmp_path: Path, entry: bytes) -> None:
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), entry)))
    target = path if path.suffix else path / "a.png"
    target.parent.mkdir()
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(target)
    with pytest.raises(DataError, match=r"caf\\udce9.* not UTF-8.*Rename it"):
        read_folder(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_a_link_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    image_folder(tmp_path / "elsewhere", {"cat": 1})
    (tmp_path / "data").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "data") + b"/caf\xe9")).symlink_to(
        tmp_path / "elsewhere" / "cat"
    )
    with pytest.raises(DataError, match=r"caf\\udce9.* not UTF-8"):
        read_folder(tmp_path / "data")


CHANGES: list[Callable[[Path], object]] = [
    lambda folder: picture(9).save(folder / "train" / "cat" / "000.png"),
    lambda folder: os.utime(folder / "train" / "cat" / "000.png", (1, 1)),
    lambda folder: (folder / "train" / "cat" / "000.png").unlink(),
    lambda folder: (folder / "train" / "cat").rename(folder / "train" / "dog"),
    lambda folder: image_folder(folder / "test", {"cat": 1}),
]


@pytest.mark.parametrize("change", CHANGES, ids=["write", "date", "remove", "rename", "add"])
def test_a_version_tells_of_every_change(tmp_path: Path, change: Callable[[Path], object]) -> None:
    image_folder(tmp_path / "train", {"cat": 2, "ant": 2})
    before = folder_state(tmp_path)
    assert folder_state(tmp_path) == before
    change(tmp_path)
    assert folder_state(tmp_path) != before


def test_the_version_of_a_saved_data_set(tmp_path: Path) -> None:
    parts = datasets.DatasetDict({"train": labelled([0, 1]), "test": labelled([1])})
    parts.save_to_disk(tmp_path)
    before = folder_state(tmp_path)
    (tmp_path / "readme.txt").write_text("no part of it")
    assert folder_state(tmp_path) == before
    parts.save_to_disk(tmp_path)
    assert folder_state(tmp_path) != before
