"""Labels of no class, as in an Arrow file whose dataset_info.json was forged or lost names."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_images
from fedsplit.data.class_range import check_label_range
from fedsplit.errors import DataError
from tests.data.pictures import labelled


def forged(folder: Path, names: list[object]) -> DataConfig:
    """Return a saved data set of two classes whose names are then changed."""
    labelled([0, 1] * 6).save_to_disk(folder)
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    info["features"]["label"]["names"] = names
    path.write_text(json.dumps(info))
    return DataConfig(name=str(folder))


@pytest.mark.parametrize("names", [["a"], []])
def test_a_label_of_no_class_is_refused(tmp_path: Path, names: list[object]) -> None:
    """Break it: leave the labels as they are, and a run has fewer classes than labels."""
    said = f"has the label 1, and only {len(names)} classes, numbered from 0"
    with pytest.raises(DataError, match=said):
        load_images(forged(tmp_path / "data", names))


def test_a_label_of_no_class_in_the_test_images_is_refused(tmp_path: Path) -> None:
    parts = {"train": labelled([0, 1] * 6, ["a", "b"]), "test": labelled([0, 1], ["a", "b"])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "data")
    path = tmp_path / "data" / "test" / "dataset_info.json"
    path.write_text(path.read_text().replace('"b"', '"a b"').replace('"a",', ""))
    with pytest.raises(DataError, match="has the label 1, and only 1 classes"):
        load_images(DataConfig(name=str(tmp_path / "data")))


@pytest.mark.parametrize("odd", [1, None, ["a"]])
def test_names_that_are_no_texts_are_refused(tmp_path: Path, odd: object) -> None:
    with pytest.raises(DataError, match=r"has the class .*, which is no text"):
        load_images(forged(tmp_path / "data", ["a", odd]))


def test_classes_without_images_and_labels_without_classes_are_let_be() -> None:
    check_label_range(labelled([0, 1], ["a", "b", "c"]), "label", "x")
    check_label_range(labelled([0, 1], ["a", "b"]).select([]), "label", "x")
    check_label_range(datasets.Dataset.from_dict({"label": [5]}), "label", "x")
