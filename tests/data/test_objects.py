from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from fedsplit.config import DataConfig
from fedsplit.data import objects, sources
from fedsplit.data.catalog import load_images
from fedsplit.data.columns import label_array
from fedsplit.data.objects import class_names_of, named_splits, splits_of
from fedsplit.data.run import reading
from fedsplit.errors import DataError
from fedsplit.objects import Given, holding
from tests.data.pictures import labelled, picture

Item = tuple[Any, ...]


class Pictures(Dataset[Item]):
    """Pairs of an image and a label; `item` stands for whatever a user's __getitem__ does."""

    def __init__(
        self, count: int, item: Callable[[int], Any] | None = None, classes: object = None
    ) -> None:
        self.count = count
        self.item = item or (lambda index: (picture(index), index % 2))
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        item: Item = self.item(index)
        return item


def _pixels(rows: datasets.Dataset) -> list[Any]:
    return [np.asarray(row["image"]).tolist() for row in rows]


def test_a_torch_data_set_is_that_of_its_images() -> None:
    ours = labelled([0, 1] * 5)
    theirs = splits_of(Pictures(10, classes=["class 0", "class 1"]))["train"]
    assert _pixels(theirs) == _pixels(ours)
    assert label_array(theirs, "label").tolist() == [0, 1] * 5
    assert theirs.features == ours.features


@pytest.mark.parametrize("label", [lambda i: np.int64(i % 2), lambda i: torch.tensor(i % 2)])
def test_labels_are_integers_of_any_kind(label: Callable[[int], object]) -> None:
    rows = splits_of(Pictures(4, lambda index: [picture(index), label(index)]))["train"]
    assert label_array(rows, "label").tolist() == [0, 1, 0, 1]


def test_a_large_data_set_is_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow cannot hold 2 GiB in one piece. Break it: forget the last piece, or the first."""
    whole = splits_of(Pictures(20))["train"]
    monkeypatch.setattr(objects, "_CHUNK_BYTES", 300)
    pieces = splits_of(Pictures(20))["train"]
    assert pieces.data.column("image").num_chunks > 3
    assert _pixels(pieces) == _pixels(whole)


def test_splits_have_the_names_that_are_given() -> None:
    one, two = Pictures(4), Pictures(2)
    assert list(named_splits(one)) == ["train"]
    assert named_splits((one, two)) == {"train": one, "test": two}
    assert named_splits({"train": one, "val": two}) == {"train": one, "val": two}
    rows = labelled([0, 1])
    assert named_splits(datasets.DatasetDict({"train": rows})) == {"train": rows}


def test_classes_are_those_of_each_split_or_else_of_the_other() -> None:
    """Break it: use the names of the first split for all; "bee" is then an ant."""
    train = Pictures(4, classes=["ant", "bee"])
    turned = Pictures(4, classes=["bee", "ant"])
    found = splits_of((train, turned))
    assert found["test"].features["label"].names == ["bee", "ant"]
    assert splits_of((train, Pictures(4)))["test"].features["label"].names == ["ant", "bee"]
    assert splits_of((Pictures(4), train))["train"].features["label"].names == ["ant", "bee"]
    assert class_names_of(Subset(Subset(train, [0, 1]), [0])) == ("ant", "bee")
    assert class_names_of(Pictures(1, classes=[("tench", "Tinca"), ("crane",)])) == (
        *("tench, Tinca", "crane"),
    )
    assert class_names_of(Pictures(1)) is class_names_of(Pictures(1, classes=3)) is None


def test_without_names_classes_are_numbers() -> None:
    given = Given("data.name", "object:Pictures", Pictures(12, lambda i: (picture(i), i % 3)))
    with holding([given]):
        images = load_images(DataConfig(name="object:Pictures"))
    assert images.class_names == ("0", "1", "2")
    assert len(images.test) == 3  # a sixth of each class, at least one


class Stream(IterableDataset[Item]):
    def __iter__(self) -> Iterator[Item]:
        yield picture(0), 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Stream(), "'train' of data= is of the type Stream, which can only be read from its start"),
        (
            labelled([0, 1]).to_iterable_dataset(),
            "type IterableDataset, which.*load it without streaming",
        ),
        (
            datasets.IterableDatasetDict({"train": labelled([0]).to_iterable_dataset()}),
            "IterableDatasetDict",
        ),
        (DataLoader(Pictures(4)), "is a DataLoader.*loader.dataset"),
        ((Pictures(4), Stream()), "'test' of data= is of the type Stream"),
        ((Pictures(4),), r"type tuple with 1 items\. Give a datasets\.Dataset"),
        ({0: Pictures(4)}, "a split called 0"),
        ({"train": [1, 2]}, "'train' of data= is of the type list"),
        ("mnist", "'train' of data= is of the type str"),
        (torch.zeros(4, 1, 8, 8), "is of the type Tensor"),
        ((labelled([0, 1]), Pictures(4)), "partly of 'datasets' and partly of torch"),
        (labelled([0, 1]).with_transform(dict), "with a transform, which would not be applied"),
        (Pictures(4, classes=["a", "a"]), "Two classes of the data set are called 'a'"),
    ],
)
def test_what_is_no_data_set_is_refused(data: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        splits_of(data)


def _raise(index: int) -> Item:
    if index == 3:
        raise KeyError("no such file")
    return picture(index), index % 2


def _mixed(index: int) -> Item:
    return (picture(index) if index < 3 else torch.zeros(2, 8, 8)), 0


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (_raise, r"Image 3 of the split 'train' of data= cannot be read \(KeyError: 'no such"),
        (_mixed, r"Image 3 of the split 'train' of data= is a tensor of shape \[2, 8, 8\]"),
        (lambda i: (picture(i), "cat"), r"the label 'cat' \(str\).*return an int"),
        (lambda i: (picture(i), 1.0), r"the label 1\.0 \(float\)"),
        (lambda i: (picture(i), True), r"the label True \(bool\)"),
        (lambda i: (picture(i), None), r"the label None \(NoneType\)"),
        (lambda i: (picture(i), torch.tensor([0, 1])), r"the label tensor\(\[0, 1\]\) \(Tensor\)"),
        (lambda i: (picture(i), -1), "the label -1. A label is the number of a class"),
        (lambda i: (picture(i), 2), "the label 2.*below 2, the number of 'classes'"),
        (picture, "is of the type Image, not a pair"),
        (lambda i: {"image": picture(i)}, "is of the type dict, not a pair"),
        (lambda i: (picture(i), 0, "name"), "is of the type tuple with 3 items, not a pair"),
    ],
)
def test_a_hostile_item_is_refused_by_its_number(item: Callable[[int], Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        splits_of(Pictures(6, item, classes=["ant", "bee"]))


def test_images_that_differ_at_a_second_read_are_refused() -> None:
    """A random transform would be drawn once for the whole run. Break it: read each image once."""
    random = np.random.default_rng(1)

    def flipped(index: int) -> Item:
        image = picture(index)
        return (
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image
        ), 0

    with pytest.raises(DataError, match=r"is another one each time.*data\.augment"):
        splits_of(Pictures(64, flipped))


def test_a_data_set_that_changes_its_length_is_refused() -> None:
    rows = Pictures(5)

    def growing(index: int) -> Item:
        rows.count = 7
        return picture(index), index % 2

    rows.item = growing
    with pytest.raises(DataError, match="had 5 images when its reading began, and has 7 now"):
        splits_of(rows)

    class Endless(Pictures):
        def __len__(self) -> int:
            raise NotImplementedError("infinite")

    with pytest.raises(DataError, match=r"does not say how many.*NotImplementedError: infinite"):
        splits_of(Endless(3))


def test_an_object_is_read_once_and_its_images_are_its_own() -> None:
    """Two objects of a class have one name. Break it: leave the object out of `held`'s key."""
    read: list[int] = []

    def counted(index: int) -> Item:
        read.append(index)
        return picture(index), index % 2

    first = Given("data.name", "object:Pictures", Pictures(16, counted))
    second = Given("data.name", "object:Pictures", Pictures(8))
    data = DataConfig(name="object:Pictures")
    with holding([first]), reading(data):
        assert len(load_images(data).train) == len(load_images(data).train) == 14
        assert len(read) == 16 + 8  # eight are read a second time
        with holding([second]), reading(data):  # a callback that makes a run
            assert len(load_images(data).train) == 6
        assert len(load_images(data).train) == 14
    assert len(read) == 24
    assert sources._held == {}
