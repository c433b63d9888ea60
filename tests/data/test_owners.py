from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
import pytest

from fedsplit.config import DataConfig
from fedsplit.data.catalog import ImageDataset
from fedsplit.data.partition import class_counts, partition
from fedsplit.errors import ConfigError, DataError
from tests.data.pictures import labelled

BY_WRITER = DataConfig(partitioner="natural-id", partition_column="writer")


def images_by(writers: Sequence[object]) -> ImageDataset:
    names = ("a", "b")
    dataset = labelled([row % 2 for row in range(len(writers))], list(names), size=1)
    column = datasets.Dataset.from_dict({"writer": list(writers)})
    dataset = datasets.concatenate_datasets([dataset, column], axis=1)
    return ImageDataset("letters", dataset, dataset, "image", "label", names)


def writers_of(images: ImageDataset, num_clients: int, seed: int = 1) -> list[set[object]]:
    parts = [
        partition(images, BY_WRITER, num_clients=num_clients, seed=seed, partition_id=client)
        for client in range(num_clients)
    ]
    assert sum(map(len, parts)) == len(images.train)
    return [set(part["writer"][:]) for part in parts]


@pytest.mark.parametrize("kind", [int, str])
def test_all_images_of_an_owner_are_at_one_client(kind: type) -> None:
    """Break it: divide the rows, and not the owners."""
    images = images_by([kind(row * 7 % 11) for row in range(60)])
    found = writers_of(images, 4)
    assert set.union(*found) == {kind(n) for n in range(11)}
    assert sorted(map(len, found)) == [2, 3, 3, 3]
    assert writers_of(images, 4) == found
    assert writers_of(images, 4, seed=2) != found


def test_with_as_many_clients_as_owners_each_has_one() -> None:
    images = images_by(["x", "y", "y", "z", "z", "z"])
    assert sorted(map(len, writers_of(images, 3))) == [1, 1, 1]
    counts = class_counts(images, BY_WRITER, num_clients=3, seed=1)
    assert np.sum(counts, axis=0).tolist() == [3, 3]


def test_fewer_owners_than_clients_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'writer' .* has 2 values: too few for 3 clients"):
        writers_of(images_by(["x", "y", "x"]), 3)


@pytest.mark.parametrize(
    ("column", "writers", "said"),
    [
        ("", ["x", "y"], "needs data.partition-column.*image, label, writer"),
        ("hospital", ["x", "y"], "no column 'hospital' .*image, label, writer"),
        ("writer", ["x", None], "is empty in 1 rows"),
        ("writer", [["x"], ["y"]], "holds lists"),
    ],
)
def test_a_column_that_names_no_owners_is_refused(
    column: str, writers: list[object], said: str
) -> None:
    data = DataConfig(partitioner="natural-id", partition_column=column)
    with pytest.raises((ConfigError, DataError), match=said):
        class_counts(images_by(writers), data, num_clients=2, seed=0)
