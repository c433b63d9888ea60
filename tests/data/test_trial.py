from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit.config import Config
from fedsplit.data import trial
from fedsplit.data.catalog import load_images
from fedsplit.data.shards import load_shard
from fedsplit.data.trial import try_images
from fedsplit.errors import DataError
from tests.data.pictures import SMALL, image_folder


def config_of(folder: Path) -> Config:
    return Config.load({"data.name": str(folder), "num-clients": 1})


def folder_of(tmp_path: Path) -> Path:
    """Return a data set of two classes, with images to train and to test."""
    image_folder(tmp_path / "train", {"a": 4, "b": 3})
    image_folder(tmp_path / "test", {"a": 2, "b": 2})
    return tmp_path


@pytest.mark.parametrize("broken", ["train/a/000.png", "train/b/000.png", "test/b/000.png"])
def test_a_broken_first_image_of_a_class_is_found_before_a_run(tmp_path: Path, broken: str) -> None:
    """Break it: try the first image of the data set alone, or only those to train."""
    folder = folder_of(tmp_path)
    assert try_images(load_images(config_of(folder).data), SMALL) == 4
    (folder / broken).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot be decoded .*Repair it, or leave out") as caught:
        try_images(load_images(config_of(folder).data), SMALL)
    assert broken in str(caught.value)
    if broken.startswith("train"):
        with pytest.raises(DataError) as of_run:
            load_shard(config_of(folder), 0, 1, SMALL)
        assert str(caught.value) == str(of_run.value)


def test_it_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break it: look at the clock only after all images."""
    monkeypatch.setattr(trial, "_MOST_SECONDS", -1.0)
    assert try_images(load_images(config_of(folder_of(tmp_path)).data), SMALL) == 1


def test_many_classes_are_tried_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_MOST_IMAGES", 2)
    assert try_images(load_images(config_of(folder_of(tmp_path)).data), SMALL) == 2
