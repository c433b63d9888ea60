from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fedsplit.config import Config, DataConfig, LastBatch
from fedsplit.data.loader import Images, batch_sizes, batches, largest_batch
from fedsplit.data.shards import load_shard
from fedsplit.errors import DataError
from fedsplit.input_spec import InputSpec
from tests.data.pictures import SMALL, image_folder, labelled, picture

NANO = replace(SMALL, height=28, width=28)
RGB = replace(SMALL, channels=3, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))


def images(
    labels: list[int], spec: InputSpec, *, keep_bytes: int = 2**20, mode: str = "L"
) -> Images:
    return Images(
        labelled(labels, mode=mode),
        image_column="image",
        label_column="label",
        spec=spec,
        keep_bytes=keep_bytes,
    )


def test_a_batch_is_normalised_pixels_and_labels() -> None:
    x, y = images([1, 0, 1], SMALL).batch(torch.tensor([2, 0]))
    assert (x.shape, x.dtype, y.dtype) == ((2, 1, 8, 8), torch.float32, torch.int64)
    assert y.tolist() == [1, 1]
    expected = (np.asarray(picture(2), dtype=np.float32) / 255 - 0.5) / 0.25
    torch.testing.assert_close(x[0, 0], torch.from_numpy(expected))


def test_colour_images_keep_their_channels_apart() -> None:
    x, _ = images([0, 0], RGB, mode="RGB").batch(torch.tensor([1]))
    pixels = np.asarray(picture(1, "RGB"), dtype=np.float32).transpose(2, 0, 1) / 255
    for channel, (mean, std) in enumerate(zip(RGB.mean, RGB.std, strict=True)):
        expected = torch.from_numpy((pixels[channel] - mean) / std)
        torch.testing.assert_close(x[0, channel], expected)


def test_grey_and_colour_are_converted() -> None:
    x, _ = images([0], RGB).batch(torch.tensor([0]))
    grey = torch.from_numpy(np.asarray(picture(0), dtype=np.float32) / 255)
    torch.testing.assert_close(x[0, 2], (grey - 0.3) / 4.0)
    x, _ = images([0], replace(SMALL, mean=(0.0,), std=(1.0,)), mode="RGB").batch(torch.tensor([0]))
    expected = np.asarray(picture(0, "RGB").convert("L"), dtype=np.float32) / 255
    torch.testing.assert_close(x[0, 0], torch.from_numpy(expected))


def test_resize_is_antialiased_and_to_height_by_width() -> None:
    spec = replace(SMALL, height=2, width=4, mean=(0.0,), std=(1 / 255,))
    x, _ = images([0], spec).batch(torch.tensor([0]))
    assert x.shape == (1, 1, 2, 4)
    expected = picture(0).resize((4, 2), Image.Resampling.BILINEAR, reducing_gap=None)
    torch.testing.assert_close(x[0, 0], torch.from_numpy(np.asarray(expected, dtype=np.float32)))
    spread = float(np.asarray(picture(0), dtype=np.float32).std())
    assert float(x.std()) < 0.6 * spread, "averages over all pixels, so that noise shrinks"


@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, height=5, width=6), RGB])
def test_sets_that_are_not_kept_give_the_same_values(spec: InputSpec) -> None:
    kept, lazy = images([0, 1, 2], spec), images([0, 1, 2], spec, keep_bytes=10)
    assert (
        lazy.num_bytes
        == 3 * 8
        < kept.num_bytes
        == 3 * 8 + 3 * spec.channels * (spec.height * spec.width)
    )
    for index in (torch.tensor([2, 0, 2]), torch.tensor([], dtype=torch.int64)):
        for one, other in zip(kept.batch(index), lazy.batch(index), strict=True):
            assert one.shape == other.shape
            assert torch.equal(one, other)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "b" / "001.png").write_bytes(b"no image")
    config = Config(data=DataConfig(name="fashion-mini"))
    with pytest.raises(DataError, match=r"does not know"):
        load_shard(config, 0, 1, SMALL, data_path=str(tmp_path))
    config = Config(data=DataConfig(name=str(tmp_path)))
    with pytest.raises(
        DataError, match=r"row 3 of the split 'train', column 'image', file .*001.png, cannot be"
    ):
        load_shard(config, 0, 1, SMALL, data_path=str(tmp_path))


def test_batches_are_a_fresh_permutation_and_keep_the_short_one() -> None:
    drawn = torch.Generator().manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = (list(batches(7, 3, generator=drawn)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is not used"
    assert [len(batch) for batch in first] == [3, 3, 1]
    assert sorted(torch.cat(first).tolist()) == list(range(7))
    assert torch.cat(first).tolist() != torch.cat(second).tolist()
    again = list(batches(7, 3, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(torch.cat(again), torch.cat(first))


@pytest.mark.parametrize(
    ("num_examples", "last", "sizes"),
    [
        *((7, "keep", [3, 3, 1]), (7, "merge", [3, 4]), (7, "drop", [3, 3])),
        *((8, "keep", [3, 3, 2]), (8, "merge", [3, 5]), (8, "drop", [3, 3])),
        *((6, "keep", [3, 3]), (6, "merge", [3, 3]), (6, "drop", [3, 3])),
        *((2, "keep", [2]), (2, "merge", [2]), (2, "drop", [])),
        *((0, "keep", []), (0, "merge", []), (0, "drop", [])),
    ],
)
def test_the_last_batch_is_kept_merged_or_dropped(
    num_examples: int, last: LastBatch, sizes: list[int]
) -> None:
    """Break it: merge into the batch before the last but one, or drop a full batch."""

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    yielded = list(batches(num_examples, 3, generator=seeded(), last=last))
    assert [len(batch) for batch in yielded] == batch_sizes(num_examples, 3, last) == sizes
    kept = torch.cat([*batches(num_examples, 3, generator=seeded()), torch.tensor([]).long()])
    taken = [index for batch in yielded for index in batch.tolist()]
    assert taken == kept.tolist()[: sum(sizes)], "in the order that the seed gives"


def test_the_largest_batch_is_one_image_less_than_two_batches() -> None:
    """Break it: return `batch-size` whatever `last-batch` says."""
    for last, largest in (("keep", 8), ("drop", 8), ("merge", 15)):
        config = Config.load({"batch-size": 8, "last-batch": last})
        assert largest_batch(config) == largest
        sizes = [size for n in range(8, 40) for size in batch_sizes(n, 8, config.last_batch)]
        assert max(sizes) == largest


def test_evaluation_is_in_order() -> None:
    assert [b.tolist() for b in batches(5, 2, generator=None)] == [[0, 1], [2, 3], [4]]
    assert list(batches(0, 2, generator=None)) == []


def test_null_images_never_reach_a_batch() -> None:
    dataset = labelled([0, 1])
    nothing = datasets.Dataset.from_dict({"image": [None], "label": [0]}, dataset.features)
    with pytest.raises(DataError, match="row 2 of a client's images, column 'image', cannot"):
        Images(
            datasets.concatenate_datasets([dataset, nothing]),
            image_column="image",
            label_column="label",
            spec=SMALL,
        )
