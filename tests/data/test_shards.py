from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsplit.config import Config, DataConfig
from fedsplit.data import shards
from fedsplit.data.catalog import load_images
from fedsplit.data.loader import Images
from fedsplit.data.shards import Shard, load_pool, load_shard, load_test, split_validation
from tests.data.pictures import Spec, image_folder, labelled

NANO = Spec(height=28, width=28)


@pytest.mark.parametrize(
    ("size", "fraction", "held"), [(10, 0.0, 0), (10, 0.25, 2), (10, 0.99, 9), (1, 0.9, 0)]
)
def test_validation_split(size: int, fraction: float, held: int) -> None:
    dataset = labelled([0] * size).add_column("row", list(range(size)))
    train, validation = split_validation(dataset, fraction, 3)
    assert len(validation) == held
    assert sorted([*train["row"][:], *validation["row"][:]]) == list(range(size))


def test_validation_split_is_seeded() -> None:
    dataset = labelled([0] * 20).add_column("row", list(range(20)))
    first, same, other = (split_validation(dataset, 0.5, seed)[1]["row"][:] for seed in (1, 1, 2))
    assert first == same != other


def test_a_shard_of_the_bundled_images() -> None:
    shard = load_shard(Config(), 3, 10, NANO)
    assert (len(shard.train), len(shard.validation)) == (540, 60)
    assert load_shard(Config(), 3, 10, NANO) is shard
    assert load_shard(Config(learning_rate=0.5), 3, 10, NANO) is shard, "the rest is no matter"
    assert load_shard(Config(seed=1), 3, 10, NANO) is not shard
    assert load_shard(Config(), 3, 10, Spec(height=14, width=14)) is not shard


def test_the_test_images() -> None:
    test = load_test(Config(), NANO)
    assert np.bincount(test.labels.numpy()).tolist() == [100] * 10
    assert load_test(Config(seed=9), NANO) is test


def test_many_threads_decode_a_shard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = shards._load_shard

    def counted(*arguments: object) -> Shard:
        made.append(1)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "_load_shard", counted)
    config = Config(seed=987)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda n: load_shard(config, n % 2, 10, NANO), range(16)))
    assert len(made) == 2
    assert len({id(shard) for shard in loaded}) == 2


def test_a_data_path_is_matched_to_the_runs_classes(tmp_path: Path) -> None:
    image_folder(tmp_path, {"Trouser": 4, "Ankle boot": 6})
    shard = load_shard(Config(), 0, 10, NANO, data_path=str(tmp_path))
    assert (len(shard.train), len(shard.validation)) == (9, 1)
    labels = sorted([*shard.train.labels.tolist(), *shard.validation.labels.tolist()])
    assert labels == [1] * 4 + [9] * 6


def test_the_pool_is_all_training_images_and_no_validation_image() -> None:
    config = Config.load({"data.partitioner": "dirichlet", "data.max-train-samples": 300})
    pool = load_pool(config, 4, NANO)
    every = [load_shard(config, client, 4, NANO) for client in range(4)]

    def pictures(images: Images) -> list[bytes]:
        pixels, _ = images.batch(torch.arange(len(images)))
        return [pixel.numpy().tobytes() for pixel in pixels]

    assert len(pool) == sum(len(shard.train) for shard in every)
    assert len(pool) + sum(len(shard.validation) for shard in every) == 300
    assert sorted(pictures(pool)) == sorted(p for shard in every for p in pictures(shard.train))
    held_out = {p for shard in every for p in pictures(shard.validation)}
    assert held_out.isdisjoint(pictures(pool))


def test_a_changed_folder_is_decoded_again(tmp_path: Path) -> None:
    config = Config(data=DataConfig(name=str(image_folder(tmp_path / "data", {"a": 12}))))
    own = str(image_folder(tmp_path / "own", {"a": 4}))

    def sizes() -> tuple[int, int, int]:
        shard, mine = load_shard(config, 0, 1, NANO), load_shard(config, 0, 1, NANO, data_path=own)
        return len(shard.train), len(mine.train), len(load_test(config, NANO))

    assert sizes() == (9, 4, 2)
    image_folder(tmp_path / "data", {"a": 24})
    image_folder(tmp_path / "own", {"a": 5})
    assert sizes() == (9, 5, 2), "a run's clients share out the data set as it was at the start"
    load_images(config.data)  # as a run does when it starts
    assert sizes() == (18, 5, 4)
