from __future__ import annotations

import subprocess
import sys
from typing import Any

import datasets
import numpy as np
import pytest
from flwr_datasets.partitioner import IidPartitioner
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsplit.config import DataConfig
from fedsplit.config.data import Partitioner
from fedsplit.data import partition as partition_module
from fedsplit.data.catalog import ImageDataset, load_images
from fedsplit.data.columns import label_array
from fedsplit.data.partition import class_counts, partition
from fedsplit.errors import ConfigError
from tests.data.pictures import labelled
from tests.preloaded import server

# pytest resets the filters that fedsplit.data.partition sets.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore::UserWarning:flwr_datasets\.partitioner"),
    pytest.mark.filterwarnings("ignore:Specifying null_placement"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:flwr_datasets"),
]


def images_of(labels: list[int], num_classes: int = 0) -> ImageDataset:
    names = [f"class {n}" for n in range(num_classes or max(labels) + 1)]
    dataset = labelled(labels, names, size=1).add_column("row", list(range(len(labels))))
    return ImageDataset("tiny", dataset, dataset, "image", "label", tuple(names))


TINY = images_of([0, 1, 2, 3] * 15)
ALL = [
    DataConfig(partitioner="iid"),
    DataConfig(partitioner="dirichlet", alpha=0.5, min_partition_size=1),
    DataConfig(partitioner="pathological", classes_per_client=2),
    DataConfig(partitioner="shard", shards_per_client=3),
    DataConfig(partitioner="linear"),
    DataConfig(partitioner="inner-dirichlet", alpha=0.3),
    DataConfig(partitioner="natural-id", partition_column="row"),
]
IDS = [data.partitioner for data in ALL]


def rows_of(
    dataset: ImageDataset, data: DataConfig, num_clients: int, seed: int
) -> list[list[int]]:
    parts = [
        partition(dataset, data, num_clients=num_clients, seed=seed, partition_id=client)
        for client in range(num_clients)
    ]
    return [part["row"][:] for part in parts]


@pytest.mark.parametrize("data", ALL, ids=IDS)
@given(num_clients=st.integers(1, 7), seed=st.integers(0, 2**40))
@settings(max_examples=12, deadline=None)
def test_every_image_belongs_to_exactly_one_client(
    data: DataConfig, num_clients: int, seed: int
) -> None:
    rows = rows_of(TINY, data, num_clients, seed)
    held = sorted(row for part in rows for row in part)
    assert len(held) == len(set(held)), "no image is held twice"
    assert all(rows), "no client is empty"
    missing = set(range(60)) - set(held)
    if data.partitioner == "shard":
        assert len(missing) == 60 % (3 * num_clients), "only what makes no whole round of shards"
    elif data.partitioner == "pathological" and num_clients < 4:
        labels = label_array(TINY.train, "label")
        drawn = {labels[row] for row in held}
        assert {labels[row] for row in missing}.isdisjoint(drawn), "only classes nobody drew"
    else:
        assert not missing


@pytest.mark.parametrize("data", ALL, ids=IDS)
def test_a_partition_depends_on_the_seed_alone(data: DataConfig) -> None:
    np.random.seed(1)  # the global state is neither read nor changed
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    first = rows_of(TINY, data, 4, 11)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    other = images_of([0, 1, 2, 3] * 15)
    assert rows_of(other, data, 4, 11) == first
    assert rows_of(TINY, data, 4, 12) != first


def test_another_process_gets_the_same_partition() -> None:
    code = (
        "from fedsplit.config import DataConfig\n"
        "from fedsplit.data.catalog import load_images\n"
        "from fedsplit.data.partition import class_counts\n"
        "data = DataConfig(partitioner='dirichlet', alpha=0.3)\n"
        "print(class_counts(load_images(data), data, num_clients=10, seed=42))"
    )
    run = server().run(["-c", code])  # strings have other hashes in it, as in any new Python
    assert run.returncode == 0, run.stderr
    data = DataConfig(partitioner="dirichlet", alpha=0.3)
    counts = class_counts(load_images(data), data, num_clients=10, seed=42)
    assert run.stdout.strip() == str(counts)
    assert run.stderr == ""


@pytest.mark.parametrize("data", ALL, ids=IDS)
def test_class_counts_are_those_of_the_partitions(data: DataConfig) -> None:
    counts = class_counts(TINY, data, num_clients=5, seed=3)
    labels = label_array(TINY.train, "label")
    for row, part in zip(counts, rows_of(TINY, data, 5, 3), strict=True):
        assert row == np.bincount(labels[part], minlength=4).tolist()


def test_iid_is_shuffled_and_even() -> None:
    ordered = images_of([0] * 30 + [1] * 30)
    counts = class_counts(ordered, DataConfig(), num_clients=4, seed=0)
    assert [sum(row) for row in counts] == [15] * 4
    assert all(min(row) > 0 for row in counts), "a data set sorted by class is mixed first"


@pytest.mark.parametrize("num_clients", [1, 3, 7])
def test_iid_is_what_flwr_datasets_has_under_this_name(num_clients: int) -> None:
    """Break it: give client k every K-th row."""
    table = datasets.Dataset.from_dict({"row": list(range(20))})
    theirs = IidPartitioner(num_clients)
    theirs.dataset = table
    for client in range(num_clients):
        ours = partition_module._iid(table, num_clients, client)
        assert ours["row"][:] == theirs.load_partition(client)["row"][:]


def test_iid_does_not_import_what_takes_a_second() -> None:
    """Break it: import flwr_datasets for every partitioner."""
    program = (
        "import sys; from fedsplit import Config; from fedsplit.checking import check_shards\n"
        "check_shards(Config.from_flat({'num-clients': 3}))\n"
        "sys.exit('flwr_datasets' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_small_alpha_is_more_uneven_than_large() -> None:
    images = load_images(DataConfig())

    def largest_share(alpha: float) -> float:
        data = DataConfig(partitioner="dirichlet", alpha=alpha)
        counts = np.array(class_counts(images, data, num_clients=10, seed=1))
        return float((counts.max(axis=0) / counts.sum(axis=0)).mean())

    assert largest_share(100.0) < 0.15
    assert largest_share(0.1) > 0.5


def test_pathological_clients_hold_so_many_classes() -> None:
    images = load_images(DataConfig())
    data = DataConfig(partitioner="pathological", classes_per_client=3)
    counts = np.array(class_counts(images, data, num_clients=10, seed=1))
    assert (counts > 0).sum(axis=1).tolist() == [3] * 10
    assert counts.sum() == 6000
    assert (np.diag(counts) > 0).all(), "client k holds class k, so that no class is left out"


def test_shard_clients_hold_shards_of_one_size() -> None:
    images = load_images(DataConfig())
    data = DataConfig(partitioner="shard", shards_per_client=2)
    counts = np.array(class_counts(images, data, num_clients=10, seed=1))
    assert set(counts.flatten().tolist()) <= {0, 300, 600}
    assert counts.sum(axis=1).tolist() == [600] * 10


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("linear", [6, 13, 20, 26, 35]),
        ("square", [1, 7, 16, 29, 47]),
        ("exponential", [1, 3, 8, 23, 65]),
    ],
)
def test_sizes_that_grow_with_the_client(name: Partitioner, sizes: list[int]) -> None:
    images = images_of([0, 1, 2, 3] * 25)
    counts = class_counts(images, DataConfig(partitioner=name), num_clients=5, seed=1)
    assert [sum(row) for row in counts] == sizes
    assert all(len(set(row)) > 1 for row in counts[2:]), "classes are mixed"


def test_images_at_no_client_are_counted_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    data = DataConfig(partitioner="shard", shards_per_client=7)
    class_counts(images_of([0, 1] * 20), data, num_clients=2, seed=31)
    assert "12 of the 40 training images of 'tiny' are at no client" in caplog.text
    assert "(data.partitioner = 'shard')" in caplog.text


IMPOSSIBLE: list[tuple[dict[str, Any], int, str]] = [
    ({}, 61, "60 training images, too few for 61 clients"),
    ({}, 0, "num-clients is 0"),
    ({"partitioner": "dirichlet", "min_partition_size": 13}, 5, "data.min-partition-size = 13"),
    (
        {"partitioner": "dirichlet", "alpha": 1e-3, "min_partition_size": 10},
        6,
        "data.alpha = 0.001.*Raise data.alpha",
    ),
    ({"partitioner": "dirichlet", "alpha": 1e-300}, 6, "Raise data.alpha"),
    ({"partitioner": "pathological", "classes_per_client": 5}, 4, "are of 4 classes"),
    (
        {"partitioner": "pathological", "classes_per_client": 4},
        20,
        "data.classes-per-client = 4.*Lower",
    ),
    ({"partitioner": "shard", "shards_per_client": 7}, 9, "too few for 63 shards"),
    ({"partitioner": "exponential"}, 9, "by exponential: the first client would get no image"),
]


@pytest.mark.parametrize(("values", "num_clients", "message"), IMPOSSIBLE)
def test_what_cannot_be_shared_out_says_why(
    values: dict[str, Any], num_clients: int, message: str
) -> None:
    data = DataConfig(**values)
    with pytest.raises(ConfigError, match=message) as caught:
        partition(TINY, data, num_clients=num_clients, seed=0, partition_id=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alpha", [1e-9, 1e9])
def test_extreme_alphas_lose_no_image(alpha: float) -> None:
    images = images_of([0, 1, 2, 3] * 25)
    data = DataConfig(partitioner="dirichlet", alpha=alpha, min_partition_size=1)
    assert np.array(class_counts(images, data, num_clients=2, seed=5)).sum() == 100


def test_a_client_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"no client 4: .* 4 clients, 0 to 3"):
        partition(TINY, DataConfig(), num_clients=4, seed=0, partition_id=4)
