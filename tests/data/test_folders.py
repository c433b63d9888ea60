from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_images
from fedsplit.data.folders import folder_state, read_folder
from fedsplit.errors import DataError
from tests.data.pictures import image_folder, labelled, picture


def test_class_folders_below_splits(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", {"dog": 2, "cat": 3})
    image_folder(tmp_path / "test", {"cat": 1, "fox": 1})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    splits = read_folder(tmp_path)
    assert set(splits) == {"train", "test"}
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


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("Train", "Test"), ("training", "testing"), ("TRAIN", "VAL"), ("train_set", "test_set")),
        *(("train", "dev"), ("Training Set", "Validation"), ("train", "eval")),
    ],
)
def test_splits_by_other_names(tmp_path: Path, train: str, test: str) -> None:
    """Break it: take Train/ and Test/ for two classes."""
    image_folder(tmp_path / train, {"dog": 2, "cat": 3})
    image_folder(tmp_path / test, {"dog": 1})
    splits = read_folder(tmp_path)
    assert splits["train"]["label"][:] == [0, 0, 0, 1, 1]
    assert [len(part) for name, part in splits.items() if name != "train"] == [1]


def test_classes_may_be_called_like_splits(tmp_path: Path) -> None:
    splits = read_folder(image_folder(tmp_path, {"train": 2, "bus": 1, "tram": 1}))
    assert splits["train"].features["label"].names == ["bus", "train", "tram"]


def test_classes_that_are_all_called_like_splits(tmp_path: Path) -> None:
    """Break it: refuse test/ and eval/ as one split before they are known to be splits."""
    splits = read_folder(image_folder(tmp_path, {"test": 2, "eval": 1}))
    assert splits["train"].features["label"].names == ["eval", "test"]


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "valid"):
        image_folder(tmp_path / name, {"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"'val' and 'valid' .* like the split 'validation'"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("classes", "likely"),
    [
        (["photos/cat", "photos/dog"], "photos"),
        (["photos/train/cat", "photos/train/dog", "photos/test/cat"], "photos"),
        (["a/b/cat", "a/b/dog"], "a/b"),
        (["v1/cat", "v1/dog", "v2/cat", "v2/dog"], "v1"),
        (["animals/cat", "animals/dog", "vehicles/bus"], "animals"),
    ],
)
def test_a_folder_that_is_too_high_is_refused_with_the_likely_one(
    tmp_path: Path, classes: list[str], likely: str
) -> None:
    """Break it: take the images at any depth below a class folder."""
    image_folder(tmp_path, dict.fromkeys(classes, 2))
    with pytest.raises(DataError, match=f"hold only folders.* probably in '{tmp_path / likely}'"):
        read_folder(tmp_path)


def test_images_may_be_in_one_folder_more_of_every_class(tmp_path: Path) -> None:
    splits = read_folder(image_folder(tmp_path, {"cat/images": 2, "dog/images": 1}))
    assert splits["train"]["label"][:] == [0, 0, 1]


def test_a_class_whose_images_are_in_several_folders_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: make one class of two without a word."""
    image_folder(tmp_path, {"cat": 2, "animals/dog": 2, "animals/eel": 2, "pike/images": 2})
    assert load_images(DataConfig(name=str(tmp_path))).class_names == ("animals", "cat", "pike")
    assert "have their images in several folders are one class each: animals." in caplog.text


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    """Break it: lose the images behind a link, or follow one that leads back for ever."""
    image_folder(tmp_path / "elsewhere", {"more": 3})
    data = image_folder(tmp_path / "data", {"cat": 2, "dog": 2})
    (data / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (data / "dog" / "back").symlink_to(data / "dog")
    images = load_images(DataConfig(name=str(data)))
    assert len(images.train) + len(images.test) == 7


def test_a_file_is_an_image_if_pillow_can_read_it_and_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: choose files by their suffixes alone."""
    image_folder(tmp_path, {"a": 3, "b": 1})
    (tmp_path / "a" / "000.png").rename(tmp_path / "a" / "photo.jfif")
    (tmp_path / "a" / "001.png").rename(tmp_path / "a" / "photo")
    (tmp_path / "b" / "c.heic").write_bytes(b"not an image")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "readme.txt").write_text("about")
    assert read_folder(tmp_path)["train"]["label"][:] == [0, 0, 0, 1]
    assert "are no images that can be read, and are left out" in caplog.text
    assert "b/c.heic, docs/readme.txt" in caplog.text
    assert "without an image are no classes: docs" in caplog.text


def test_a_folder_without_one_image_names_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.heic").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"no data set that can be read. It has: a/1.heic"):
        read_folder(tmp_path)


def test_test_images_without_class_folders_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image_folder(tmp_path / "train", {"a": 2, "b": 2})
    image_folder(tmp_path, {"test": 3, "notes": 1})
    assert set(read_folder(tmp_path)) == {"train"}
    assert "has no labelled images in test/, so they are not used" in caplog.text
    assert "beside the splits" in caplog.text
    assert "notes" in caplog.text


def test_a_change_of_a_table_or_a_loose_file_is_seen(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 1, "b": 1})
    before = folder_state(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,label\na/000.png,x\nb/000.png,y\n")
    assert folder_state(tmp_path) != before
    assert set(read_folder(tmp_path)["train"]["label"]) == {"x", "y"}


@pytest.mark.parametrize("what", ["a file", "a folder"])
def test_images_that_links_repeat_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Break it: say nothing of an image in two classes, or to train and to test."""
    data = image_folder(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 2, "test/b": 2})
    read_folder(data)
    assert "more than once" not in caplog.text
    if what == "a file":
        (data / "train" / "b" / "again.png").symlink_to("../a/000.png")
    else:
        (data / "test" / "a" / "again").symlink_to(data / "train" / "a")
    read_folder(data)
    count = 1 if what == "a file" else 2
    assert f"{count} images of '{data}' are there more than once" in caplog.text
    assert "train/a/000.png" in caplog.text
