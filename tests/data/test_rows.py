from __future__ import annotations

import logging
from pathlib import Path

import datasets
import pytest

from fedsplit import simulate
from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_images
from fedsplit.data.rows import place_of
from fedsplit.errors import DataError, RunError
from tests.conftest import TINY
from tests.data.pictures import image_folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, with two files in train/ and one in test/ that are no images."""
    for split, each in {"train": 30, "test": 6}.items():
        image_folder(tmp_path / "photos" / split, {"a": each, "b": each})
    for name in ("train/a/003.png", "train/b/007.png", "test/b/000.png"):
        (tmp_path / "photos" / name).write_bytes(b"no image")
    return tmp_path / "photos"


def test_images_that_cannot_be_decoded_are_counted_and_named(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: leave them out without a word, or number the rows that are left."""
    with caplog.at_level(logging.WARNING):
        images = load_images(DataConfig(name=str(photos), on_error="skip"))
    assert (len(images.train), len(images.test)) == (58, 11)
    ours = [message for message in caplog.messages if "are left out" in message]
    assert "2 of 60 images of" in ours[0]
    assert "row 3 of the split 'train'" in ours[0]
    assert "row 37 of the split 'train'" in ours[0]
    assert "007.png" in ours[0]
    assert "1 of 12 images" in ours[1]
    assert "row 6 of the split 'test'" in ours[1]


@pytest.mark.usefixtures("undrawn")
def test_a_run_skips_them_or_says_how_to(photos: Path, tmp_path: Path) -> None:
    keys = {
        **TINY,
        "output-dir": str(tmp_path),
        "data.name": str(photos),
        "data.partitioner": "iid",
        "num-clients": 2,
        "num-server-rounds": 1,
        "data.max-test-samples": 0,
    }
    with pytest.raises((DataError, RunError), match=r"data.on-error = 'skip'"):
        simulate(keys)
    summary = simulate({**keys, "data.on-error": "skip"}).summary
    assert summary["num_train_examples"] + summary["num_validation_examples"] == 58
    assert summary["num_test_examples"] == 11


def test_a_data_set_without_any_image_is_refused(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 2, "b": 2})
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"No image of .* can be decoded. The image in row 0"):
        load_images(DataConfig(name=str(tmp_path), on_error="skip"))


def test_a_share_that_was_saved_has_rows_of_its_own(photos: Path, tmp_path: Path) -> None:
    """A SuperNode's folder is often made like this. Break it: keep the column that is there."""
    share = load_images(DataConfig(name=str(photos), on_error="skip")).train
    saved = share.select(range(4, 50))
    datasets.DatasetDict(train=saved, test=saved).save_to_disk(str(tmp_path / "saved"))
    again = load_images(DataConfig(name=str(tmp_path / "saved")))
    assert len(again.train) == 46
    assert place_of(again.train, "image", 3) == "row 3 of the split 'train', column 'image'"
    assert place_of(again.test, "image", 3) == "row 3 of the split 'test', column 'image'"
