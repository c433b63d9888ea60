"""Data sets that `simulate` is given as objects: of `datasets`, or of `torch.utils.data`.

A torch data set is read once, when the run begins, and kept in memory as PNGs. From there on it is
like any other: its images are held out, divided among the clients and fitted to the model alike.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import datasets
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset as IterableTorchDataset

from fedsplit.data.encode import encode
from fedsplit.data.functions import checked_splits
from fedsplit.errors import DataError

_WANTED = (
    "Give a datasets.Dataset or datasets.DatasetDict, a torch.utils.data.Dataset of (image, label) "
    "pairs, a pair (train, test) of them, or a mapping from split names to them."
)
_ITERABLE = (datasets.IterableDataset, datasets.IterableDatasetDict, IterableTorchDataset)
_PAIR = ("train", "test")
_CHUNK_BYTES = 256 * 2**20  # a column of Arrow holds at most 2 GiB in one piece
_READ_AGAIN = 8

Rows: TypeAlias = datasets.Dataset | TorchDataset[Any]
DataObject: TypeAlias = Rows | tuple[Rows, Rows] | Mapping[str, Rows]


def splits_of(data: object) -> dict[str, datasets.Dataset]:
    """Return the splits of a data set that `simulate` was given.

    Raises
    ------
    DataError
        If it is none, its images or labels cannot be used, or two reads of an image differ.
    """
    given = named_splits(data)
    torch_sets = {name: rows for name, rows in given.items() if isinstance(rows, TorchDataset)}
    if not torch_sets:
        return checked_splits(given, "The data set that simulate() was given as data=", "has")
    if len(torch_sets) < len(given):
        raise DataError(
            "The splits of data= are partly of 'datasets' and partly of torch. Give all of them as "
            "one kind of data set."
        )
    own = {split: class_names_of(rows) for split, rows in torch_sets.items()}
    known = next((names for names in own.values() if names is not None), None)
    return {split: _read(rows, split, own[split] or known) for split, rows in torch_sets.items()}


def named_splits(data: object) -> dict[str, Rows]:
    """Return the data set's splits by name, without reading an image.

    Raises
    ------
    DataError
        If it is no data set, or one whose length is unknown.
    """
    if isinstance(data, tuple | list):
        if len(data) != len(_PAIR):
            raise DataError(
                f"data= is of the type {type(data).__name__} with {len(data)} items. {_WANTED}"
            )
        data = dict(zip(_PAIR, data, strict=True))
    elif not isinstance(data, Mapping) or isinstance(data, datasets.IterableDatasetDict):
        data = {_PAIR[0]: data}
    for split, rows in data.items():
        if not isinstance(split, str):
            raise DataError(f"data= has a split called {split!r}. Names of splits are texts.")
        _check_kind(rows, split)
    return dict(data)


def base_of(rows: object) -> object:
    """Return the data set that a `torch.utils.data.Subset` is made of, or the one that is given."""
    while hasattr(rows, "dataset") and hasattr(rows, "indices"):
        rows = rows.dataset
    return rows


def class_names_of(rows: TorchDataset[Any]) -> tuple[str, ...] | None:
    """Return the attribute ``classes`` of a torch data set, or of that of which it is a subset.

    Raises
    ------
    DataError
        If these are no names, or two are alike.
    """
    classes = getattr(base_of(rows), "classes", None)
    if not isinstance(classes, Sequence) or isinstance(classes, str):
        return None
    # ImageNet of torchvision has several words for each class.
    names = tuple(", ".join(c) if isinstance(c, tuple | list) else str(c) for c in classes)
    alike = sorted({name for name in names if names.count(name) > 1}) if names else []
    if alike:
        raise DataError(
            f"Two classes of the data set are called '{alike[0]}'. Give its attribute 'classes' a "
            "name of its own for each class."
        )
    return names or None


def _check_kind(rows: object, split: str) -> None:
    if isinstance(rows, _ITERABLE):
        raise DataError(
            f"The split '{split}' of data= is of the type {type(rows).__name__}, which can only be "
            "read from its start to its end. Clients need images by their number: load it without "
            "streaming, or collect it in a datasets.Dataset."
        )
    if isinstance(rows, DataLoader):
        raise DataError(
            f"The split '{split}' of data= is a DataLoader; a run makes its own batches. Give its "
            "data set: loader.dataset."
        )
    if not isinstance(rows, datasets.Dataset | TorchDataset):
        raise DataError(
            f"The split '{split}' of data= is of the type {type(rows).__name__}. {_WANTED}"
        )


def _read(rows: TorchDataset[Any], split: str, names: tuple[str, ...] | None) -> datasets.Dataset:
    """Read every image once."""
    count = _length(rows, split)
    label_feature = (
        datasets.Value("int64") if names is None else datasets.ClassLabel(names=list(names))
    )
    features = datasets.Features({"image": datasets.Image(), "label": label_feature})
    chunks = [
        datasets.Dataset.from_dict({"image": files, "label": numbers}, features=features)
        for files, numbers in _chunks(rows, split, count, names)
    ]
    if _length(rows, split) != count:
        raise DataError(
            f"The split '{split}' of data= had {count} images when its reading began, and has "
            f"{_length(rows, split)} now. Give a data set that does not change during a run."
        )
    return datasets.concatenate_datasets(chunks) if len(chunks) > 1 else chunks[0]


def _chunks(
    rows: TorchDataset[Any], split: str, count: int, names: tuple[str, ...] | None
) -> Iterator[tuple[list[dict[str, bytes | None]], list[int]]]:
    files: list[dict[str, bytes | None]] = []
    labels: list[int] = []
    size = 0
    every = max(1, count // _READ_AGAIN)
    for index in range(count):
        png, label = _item(rows, split, index, names)
        if index % every == 0 and _item(rows, split, index, names) != (png, label):
            raise DataError(
                f"{_place(split, index)()} is another one each time it is read: the data set "
                "changes it at random. Leave random transforms out; data.augment changes training "
                "images in every epoch anew."
            )
        if size + len(png) > _CHUNK_BYTES and files:
            yield files, labels
            files, labels, size = [], [], 0
        files.append({"bytes": png, "path": None})
        labels.append(label)
        size += len(png)
    yield files, labels


def _length(rows: TorchDataset[Any], split: str) -> int:
    try:
        return len(rows)  # type: ignore[arg-type]
    except Exception as error:  # `len` may be the user's own code
        raise DataError(
            f"The split '{split}' of data= does not say how many images it has "
            f"({type(error).__name__}: {error}). Give it a __len__."
        ) from error


def _place(split: str, index: int) -> Callable[[], str]:
    return lambda: f"Image {index} of the split '{split}' of data="


def _item(
    rows: TorchDataset[Any], split: str, index: int, names: tuple[str, ...] | None
) -> tuple[bytes, int]:
    """Return one image as a PNG, and its label."""
    place = _place(split, index)
    try:
        item = rows[index]
    except Exception as error:  # the user's own code may raise anything
        raise DataError(
            f"{place()} cannot be read ({type(error).__name__}: {error}). Repair the data set's "
            "__getitem__, or leave this image out."
        ) from error
    if not (isinstance(item, tuple | list) and len(item) == 2):
        size = f" with {len(item)} items" if isinstance(item, tuple | list) else ""
        raise DataError(
            f"{place()} is of the type {type(item).__name__}{size}, not a pair. Return (image, "
            "label) from the data set's __getitem__."
        )
    image, label = item
    return encode(image, place=place), _label(label, place, names)


def _label(label: object, place: Callable[[], str], names: tuple[str, ...] | None) -> int:
    try:
        if isinstance(label, bool):
            raise TypeError
        number = operator.index(label)  # type: ignore[arg-type] # what has none raises TypeError
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"{place()} has the label {label!r:.100} ({type(label).__name__}). A label is the "
            "number of a class, from 0: return an int, and give the data set the names of its "
            "classes as an attribute 'classes'."
        ) from None
    if number < 0 or (names is not None and number >= len(names)):
        known = "" if names is None else f" and is below {len(names)}, the number of 'classes'"
        raise DataError(
            f"{place()} has the label {number}. A label is the number of a class: it begins at "
            f"0{known}."
        )
    return number
