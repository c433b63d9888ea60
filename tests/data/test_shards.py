from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from fedsplit import simulate
from fedsplit.config import Config, DataConfig
from fedsplit.data import shards
from fedsplit.data.catalog import load_images
from fedsplit.data.loader import Images
from fedsplit.data.partition import partition
from fedsplit.data.shards import forget, load_pool, load_shard, load_test, split_validation
from fedsplit.data.sources import source_of
from fedsplit.input_spec import InputSpec
from tests.data.pictures import SMALL, image_folder, labelled

pytestmark = pytest.mark.usefixtures("undrawn")

NANO = replace(SMALL, height=28, width=28)


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
    assert load_shard(Config(), 3, 10, replace(SMALL, height=14, width=14)) is not shard


def test_the_test_images() -> None:
    test = load_test(Config(), NANO)
    assert np.bincount(test.labels.numpy()).tolist() == [100] * 10
    assert load_test(Config(seed=9), NANO) is test


def test_many_threads_decode_a_shard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Images] = []

    def counted(rows: datasets.Dataset, **options: Any) -> Images:  # noqa: ANN401
        made.append(Images(rows, **options))
        return made[-1]

    monkeypatch.setattr(shards, "Images", counted)
    config = Config(seed=987)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda n: load_shard(config, n % 2, 10, NANO), range(16)))
    assert len(made) == 2 * 2, "two clients, training and validation images each"
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


ODD = replace(SMALL, resize="never")  # crops 8 of 11 pixels: the margin is 1.5
PAIRS = {
    "channels": (SMALL, replace(SMALL, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)),
    "height": (SMALL, replace(SMALL, height=7)),
    "width": (SMALL, replace(SMALL, width=7)),
    "mean": (SMALL, replace(SMALL, mean=(0.4,))),
    "std": (SMALL, replace(SMALL, std=(0.5,))),
    "resample": (SMALL, replace(SMALL, resample=3)),
    "resize": (SMALL, replace(SMALL, resize=9)),
    "crop_rounding": (ODD, replace(ODD, crop_rounding="even")),
    "background": (SMALL, replace(SMALL, background="black")),
}


def clear(labels: list[int]) -> datasets.Dataset:
    """Return pictures of 11x11 pixels that are half transparent."""
    pictures = labelled(labels, size=11)
    faded = [row["image"].convert("RGBA") for row in pictures]
    for image in faded:
        image.putalpha(128)
    columns = {"image": faded, "label": labels}
    return datasets.Dataset.from_dict(columns, features=pictures.features)


@pytest.mark.parametrize("field", [field.name for field in fields(InputSpec)])
def test_specs_that_differ_in_one_field_get_their_own_pixels(tmp_path: Path, field: str) -> None:
    """Break it: leave the field out of the cache keys."""
    splits = {"train": clear([0, 1] * 3), "test": clear([0, 1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path)
    data = DataConfig(name=str(tmp_path), validation_fraction=0.5)
    config = Config(data=data)
    rows = partition(load_images(data), data, num_clients=1, seed=config.seed, partition_id=0)

    def pictures(images: Images) -> torch.Tensor:
        return images.batch(torch.arange(len(images)))[0]

    found = []
    for spec in PAIRS[field]:
        shard, test = load_shard(config, 0, 1, spec), load_test(config, spec)
        every = Images(rows, image_column="image", label_column="label", spec=spec)
        alone = Images(splits["test"], image_column="image", label_column="label", spec=spec)
        assert torch.equal(pictures(test), pictures(alone))
        assert _as_set(pictures(shard.train), pictures(shard.validation)) == _as_set(
            pictures(every)
        )
        found.append([pictures(images) for images in (*shard, test)])
    assert not any(torch.equal(one, other) for one, other in zip(*found, strict=True))


def _as_set(*images: torch.Tensor) -> set[bytes]:
    return {picture.numpy().tobytes() for batch in images for picture in batch}


OTHER_CONFIGS: dict[str, dict[str, object]] = {
    "seed": {"seed": 5},
    "validation fraction": {"data.validation-fraction": 0.5},
    "partitioner": {"data.partitioner": "shard"},
    "limit": {"data.max-train-samples": 60},
    "image column": {"data.image-column": "other_image"},
    "label column": {"data.label-column": "other_label"},
}


@pytest.mark.parametrize("changes", OTHER_CONFIGS.values(), ids=OTHER_CONFIGS)
def test_keys_that_decide_a_shard_give_another_shard(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    """Break it: leave one of these keys out of the cache key."""
    names = datasets.ClassLabel(names=["a", "b"])
    rows = labelled([0, 1] * 40).add_column("other_label", [1, 0] * 40, feature=names)
    colour = labelled([0] * 80, mode="RGB").rename_column("image", "other_image")
    rows = datasets.concatenate_datasets([rows, colour.select_columns(["other_image"])], axis=1)
    rows.save_to_disk(tmp_path)
    columns = {"data.image-column": "image", "data.label-column": "label"}
    config = Config.load({"data.name": str(tmp_path), **columns})
    first = load_shard(config, 0, 2, SMALL)
    other = load_shard(Config.load(config, changes), 0, 2, SMALL)
    assert load_shard(config, 0, 2, SMALL) is first
    one, two = (shard.train.batch(torch.arange(len(shard.train))) for shard in (first, other))
    assert not (torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]))


def test_a_key_that_the_partitioner_ignores_changes_nothing() -> None:
    shard = load_shard(Config(), 3, 10, NANO)
    ignored = {"data.alpha": 9.0, "data.shards-per-client": 5, "data.min-partition-size": 3}
    assert load_shard(Config.load(Config(), ignored), 3, 10, NANO) is shard


def test_two_models_in_one_process_get_the_runs_that_each_has_alone(tmp_path: Path) -> None:
    """Break it: leave `resample` out of the cache keys."""
    keys = {
        "num-clients": 2,
        "num-server-rounds": 1,
        "data.max-train-samples": 60,
        "data.max-test-samples": 20,
        "batch-size": 8,
        "output-dir": str(tmp_path),
    }

    def run(name: str, model: str) -> float:
        result = simulate(keys, run_name=name, model_name=f"tests.small_models:{model}")
        return float(result.summary["final_loss"])

    together = [run("a", "make"), run("b", "make_resized_by_nearest")]
    forget(source_of("fashion-mini"))
    alone = run("c", "make_resized_by_nearest")
    assert together[1] == alone != together[0]


def test_a_changed_folder_is_decoded_again(tmp_path: Path) -> None:
    config = Config(data=DataConfig(name=str(image_folder(tmp_path / "data", {"a": 12, "b": 6}))))
    own = str(image_folder(tmp_path / "own", {"a": 4}))

    def sizes() -> tuple[int, int, int]:
        shard, mine = load_shard(config, 0, 1, NANO), load_shard(config, 0, 1, NANO, data_path=own)
        return len(shard.train), len(mine.train), len(load_test(config, NANO))

    assert sizes() == (13, 4, 3)
    image_folder(tmp_path / "data", {"a": 24})
    image_folder(tmp_path / "own", {"a": 5})
    assert sizes() == (13, 5, 3), "a run's clients share out the data set as it was at the start"
    load_images(config.data)  # as a run does when it starts
    assert sizes() == (23, 5, 5)
