from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest

from fedsplit import Config, simulate
from fedsplit.checking import check
from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_images
from fedsplit.data.columns import label_array
from fedsplit.data.functions import call_function
from fedsplit.errors import ConfigError, DataError, FedSplitError
from tests.conftest import weights
from tests.data.pictures import labelled

pytestmark = pytest.mark.usefixtures("undrawn")

SETS = "tests.data.own_sets"
KEYS: dict[str, Any] = {
    "model.name": "tests.small_models:make",
    "num-clients": 2,
    "num-server-rounds": 2,
    "batch-size": 4,
}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stand for a notebook: a module whose functions are defined again."""
    made = ModuleType("own_notebook")
    monkeypatch.setitem(sys.modules, "own_notebook", made)
    return made


def test_the_splits_are_what_the_function_returns() -> None:
    splits = call_function(f"{SETS}:digits")
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 60, "test": 10}


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("no_such_package:make", ConfigError, r"data\.name = 'no_such_package:make' cannot be imp"),
        (f"{SETS}:missing", ConfigError, "cannot be imported"),
        (f"{SETS}:not_a_function", ConfigError, "an object of the type int, not a function"),
        (f"{SETS}:fails", DataError, "failed: OSError: the disk is not mounted"),
        (f"{SETS}:needs_an_argument", DataError, "TypeError.*called without arguments"),
        (f"{SETS}:returns_rows", DataError, r"returned Dataset\. Return a datasets\.DatasetDict"),
        (f"{SETS}:transformed", DataError, "split 'train' with a transform.*map"),
        (f"{SETS}:returns_lists", DataError, "returned list as the split 'train'"),
    ],
)
def test_what_returns_no_data_set_is_refused_before_the_run(
    name: str, kind: type[FedSplitError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said) as caught:
        check(Config.load({"data.name": name, "output-dir": str(tmp_path / "runs")}))
    assert caught.value.exit_code == 2
    assert name in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_columns_limits_and_held_out_images_are_as_for_folders() -> None:
    """Break it: add the label column to empty test images with `add_column`, which fails."""
    name = f"{SETS}:columns_of_its_own"
    data = DataConfig(name=name, label_column="kind", max_train_samples=30)
    images = load_images(data)
    assert (images.image_column, images.label_column) == ("photo", "kind")
    assert images.class_names == ("ant", "bee", "cat")
    assert np.bincount(label_array(images.train, "kind")).tolist() == [10, 10, 10]
    assert len(images.test) == 9
    assert images.train[0]["photo"].size == (10, 10)
    with pytest.raises(DataError, match="no column 'x'"):
        load_images(data.model_copy(update={"label_column": "x"}))


def test_a_run_calls_the_function_once(module: ModuleType, tmp_path: Path) -> None:
    """Break it: look again in `source_of` while a run holds the data set."""
    calls: list[int] = []

    def make() -> datasets.DatasetDict:
        calls.append(1)
        return datasets.DatasetDict({"train": labelled([0, 1] * 30, size=10)})

    vars(module)["make"] = make
    for strategy, expected in (("sflv1", 1), ("centralized", 2)):
        result = simulate(
            KEYS, data_name="own_notebook:make", strategy=strategy, output_dir=str(tmp_path)
        )
        assert len(calls) == expected
    assert result.summary["dataset"] == "own_notebook:make"
    # A sixth of 60 is held out as test images, and a tenth of each 25 for validation.
    assert result.rounds[-1]["num_examples"] == 46


def test_a_function_that_is_defined_again_is_found_by_the_next_run(
    module: ModuleType, tmp_path: Path
) -> None:
    """Break it: make two results of functions equal, as if the name decided."""

    def run(labels: list[int]) -> tuple[int, dict[str, Any]]:
        rows = labelled(labels, size=10)
        vars(module)["make"] = lambda: {"train": rows, "test": labelled([0, 1], size=10)}
        result = simulate(KEYS, data_name="own_notebook:make", output_dir=str(tmp_path))
        return result.rounds[-1]["num_examples"], weights(result)

    first, again, second = run([0, 1] * 20), run([0, 1] * 20), run([1, 0] * 20)
    assert first[0] == second[0] == 36
    assert all((first[1][name] == again[1][name]).all() for name in first[1])
    assert any((first[1][name] != second[1][name]).any() for name in first[1])
    assert run([0, 1] * 30)[0] == 54
