"""Functions that `data.name` can name, right ones and wrong ones."""

from __future__ import annotations

import datasets

from tests.data.pictures import labelled

not_a_function = 3


def digits() -> datasets.DatasetDict:
    return datasets.DatasetDict(
        {"train": labelled([0, 1] * 30, size=10), "test": labelled([0, 1] * 5, size=10)}
    )


def columns_of_its_own() -> dict[str, datasets.Dataset]:
    """No test split, labels that are words, and a format that would hide the pictures."""
    words = [["ant", "bee", "cat"][label] for label in [0, 1, 2] * 20]
    rows = labelled([0] * 60, size=10).remove_columns(["label"]).add_column("kind", words)
    return {"train": rows.rename_column("image", "photo").with_format("numpy")}


def fails() -> datasets.DatasetDict:
    raise OSError("the disk is not mounted")


def needs_an_argument(folder: str) -> datasets.DatasetDict:
    return datasets.DatasetDict({"train": labelled([len(folder)])})


def returns_rows() -> datasets.Dataset:
    return labelled([0, 1])


def returns_lists() -> dict[str, list[int]]:
    return {"train": [0, 1]}


def transformed() -> dict[str, datasets.Dataset]:
    return {name: rows.with_transform(dict) for name, rows in digits().items()}
