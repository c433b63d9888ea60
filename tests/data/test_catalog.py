from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest

from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_data_path, load_images
from fedsplit.data.columns import label_array
from fedsplit.data.sources import is_local
from fedsplit.errors import DataError
from tests.data.pictures import image_folder, labelled, picture


def counts(dataset: datasets.Dataset) -> list[int]:
    return [int(n) for n in np.bincount(label_array(dataset, "label"))]


def test_the_bundled_images() -> None:
    images = load_images(DataConfig())
    assert (len(images.train), len(images.test)) == (6000, 1000)
    assert images.class_names[0] == "T-shirt/top"
    assert (images.image_column, images.label_column) == ("image", "label")
    assert load_images(DataConfig(alpha=7.0)) is images, "loaded once, whatever the partition"


def test_limits_are_class_balanced() -> None:
    images = load_images(DataConfig(max_train_samples=50, max_test_samples=20))
    assert counts(images.train) == [5] * 10
    assert counts(images.test) == [2] * 10


def test_a_folder_without_test_images_has_a_sixth_held_out(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 12, "b": 6})
    images = load_images(DataConfig(name=str(tmp_path)))
    assert counts(images.test) == [2, 1]
    assert counts(images.train) == [10, 5]
    train, test = ({row["image"].filename for row in part} for part in (images.train, images.test))
    assert not train & test


@pytest.mark.parametrize("split", ["test", "validation", "valid"])
def test_test_images_are_test_or_validation(tmp_path: Path, split: str) -> None:
    parts = datasets.DatasetDict({"train": labelled([0, 1]), split: labelled([1, 0, 1])})
    parts.save_to_disk(tmp_path)
    images = load_images(DataConfig(name=str(tmp_path)))
    assert (len(images.train), len(images.test)) == (2, 3)


@pytest.mark.parametrize("kind", ["bytes", "file", "path"])
def test_columns_that_have_to_be_cast(tmp_path: Path, kind: str) -> None:
    files = sorted(image_folder(tmp_path / "saved" / "files", {"a": 12}).rglob("*.png"))
    columns = {
        "bytes": [path.read_bytes() for path in files],
        "file": [{"bytes": path.read_bytes(), "path": None} for path in files],
        "path": [str(path) for path in files],
    }
    dataset = datasets.Dataset.from_dict({"photo": columns[kind], "label": [0, 1] * 6})
    dataset.save_to_disk(tmp_path / "saved")
    data = DataConfig(name=str(tmp_path / "saved"), image_column="photo")

    images = load_images(data)
    assert (len(images.train), len(images.test)) == (10, 2)
    held = {row["photo"].tobytes() for part in (images.train, images.test) for row in part}
    assert held == {picture(seed).tobytes() for seed in range(12)}
    own = load_data_path(data.name, data, ("0", "1", "2"))
    assert (len(own.train), len(own.test)) == (12, 0)
    assert own.train[3]["photo"].tobytes() == picture(3).tobytes()


def test_test_goes_before_validation(tmp_path: Path) -> None:
    parts = {"validation": labelled([0]), "train": labelled([0, 1]), "test": labelled([0, 1, 1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path)
    assert len(load_images(DataConfig(name=str(tmp_path))).test) == 3


def test_data_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/no/such/folder.*does not exist.*fashion-mini"):
        load_images(DataConfig(name="/no/such/folder"))
    datasets.DatasetDict({"other": labelled([0, 1])}).save_to_disk(tmp_path / "a")
    with pytest.raises(DataError, match=r"no images in a split called 'train'.*other \(2 rows\)"):
        load_images(DataConfig(name=str(tmp_path / "a")))
    labelled([0, 1]).save_to_disk(tmp_path / "b")
    with pytest.raises(DataError, match="too few to hold some out"):
        load_images(DataConfig(name=str(tmp_path / "b")))
    parts = {"train": labelled([0, 1]), "test": labelled([0]).remove_columns(["label"])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "c")
    parts["test"] = parts["test"].rename_column("image", "photo").add_column("label", [0])
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "c")
    with pytest.raises(DataError, match="lack the column"):
        load_images(DataConfig(name=str(tmp_path / "c")))
    labelled([1, 1], ["cat", "dog"]).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="all of the class 'dog', so there is nothing to tell"):
        load_images(DataConfig(name=str(tmp_path / "d")))


@pytest.mark.parametrize("labels", [[-1, -1, -1], None], ids=["-1", "no column"])
def test_a_test_split_without_labels_is_named_and_the_next_one_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: list[int] | None
) -> None:
    names = ["class 0", "class 1"]
    test = labelled(labels or [0, 1, 1], names)
    if labels is None:
        test = test.remove_columns(["label"])
    splits = {"train": labelled([0, 1] * 6), "validation": labelled([0, 1], names), "test": test}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "a")
    assert len(load_images(DataConfig(name=str(tmp_path / "a"))).test) == 2
    assert "The split 'test' of the data set" in caplog.text
    del splits["validation"]
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "b")
    images = load_images(DataConfig(name=str(tmp_path / "b")))
    assert (counts(images.train), counts(images.test)) == ([5, 5], [1, 1])


def test_splits_may_be_named(tmp_path: Path) -> None:
    names = ["class 0", "class 1"]
    splits = {"train": labelled([0, 1]), "extra": labelled([0, 1] * 3), "test": labelled([0, 1])}
    splits["dev"] = labelled([1], names)
    datasets.DatasetDict(splits).save_to_disk(tmp_path)
    data = DataConfig(name=str(tmp_path), train_split="extra", test_split="dev")
    images = load_images(data)
    assert (len(images.train), len(images.test)) == (6, 1)
    with pytest.raises(DataError, match=r"split called 'no'.* name a split with data.test-split"):
        load_images(data.model_copy(update={"test_split": "no"}))
    with pytest.raises(DataError, match="are both 'extra'"):
        load_images(data.model_copy(update={"test_split": "extra"}))


def test_every_class_has_a_test_image_if_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: hold out a sixth, rounded down, of each class."""
    images = load_images(DataConfig(name=str(image_folder(tmp_path, {"a": 2, "b": 14, "c": 1}))))
    assert (counts(images.train), counts(images.test)) == ([1, 12, 1], [1, 2])
    assert "has one image, and so none to test, of: c." in caplog.text


def test_a_supernodes_own_images_are_all_its_shard(tmp_path: Path) -> None:
    image_folder(tmp_path, {"dog": 3, "cat": 4})
    images = load_data_path(tmp_path, DataConfig(max_train_samples=1), ("ant", "cat", "dog"))
    assert counts(images.train) == [0, 4, 3]
    assert len(images.test) == 0
    assert images.class_names == ("ant", "cat", "dog")
    assert load_data_path(str(tmp_path), DataConfig()).class_names == ("cat", "dog")


def test_a_changed_folder_is_read_again(tmp_path: Path) -> None:
    data = DataConfig(name=str(image_folder(tmp_path, {"a": 12, "b": 6})))
    images = load_images(data)
    assert load_images(data) is images
    image_folder(tmp_path, {"b": 12})
    assert load_images(data, look=False) is images  # as a run's clients do
    again = load_images(data)
    assert counts(again.train) == [10, 10]
    assert load_images(data, look=False) is again


def test_a_folder_is_known_by_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, classes in (("x", {"a": 2, "c": 2}), ("y", {"b": 2, "c": 2})):
        image_folder(tmp_path / place / "photos", classes)
        monkeypatch.chdir(tmp_path / place)
        assert load_images(DataConfig(name="photos")).class_names == tuple(classes)


@pytest.mark.parametrize("name", ["x" * 300, "~nosuchuser/x", "a\0b"], ids=ascii)
def test_names_that_no_folder_can_have(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not is_local(name)
    with pytest.raises(DataError, match=r"does not exist|no data set"):
        load_images(DataConfig(name=name))
    with pytest.raises(DataError, match="is not a folder"):
        load_data_path(name, DataConfig())


def test_a_data_path_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data-path .*missing' is not a folder"):
        load_data_path(tmp_path / "missing", DataConfig())
    image_folder(tmp_path, {"yak": 1})
    with pytest.raises(DataError, match="does not know: yak"):
        load_data_path(tmp_path, DataConfig(), ("ant",))
