"""Find the columns of the images and the labels, and make every label a `ClassLabel`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import datasets
import numpy as np
import numpy.typing as npt

from fedsplit.config import DataConfig
from fedsplit.data.class_range import check_label_range
from fedsplit.data.image_paths import AllowedFolders, check_images
from fedsplit.data.rows import own_columns
from fedsplit.errors import DataError
from fedsplit.names import some

IMAGE_NAMES = ("image", "img", "images", "pixel_values")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category")
_WHOLE = re.compile(r"(0|[1-9]\d*)(\.0+)?", re.ASCII)
"""A whole number as text, also as pandas writes it if a column has a gap: 1.0."""
_MOST_DIGITS = 18
PLAIN_LABELS = ("int", "uint", "float", "string", "large_string", "bool")


def find_columns(dataset: datasets.Dataset, data: DataConfig) -> tuple[str, str]:
    """Return the names of the image column and the label column.

    Raises
    ------
    DataError
        If a configured column does not exist, or no column or several columns qualify.
    """
    features = dataset.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = [n for n, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not classes:
        classes = [n for n in LABEL_NAMES if n in features and _is_plain(features[n])]
    return (
        _choose(dataset, data, "image", images, IMAGE_NAMES),
        _choose(dataset, data, "label", classes, LABEL_NAMES),
    )


def _choose(
    dataset: datasets.Dataset,
    data: DataConfig,
    kind: str,
    candidates: list[str],
    preferred: tuple[str, ...],
) -> str:
    asked = data.image_column if kind == "image" else data.label_column
    features = dataset.features
    columns = ", ".join(f"{name} ({_type(features[name])})" for name in own_columns(dataset))
    if asked:
        if asked in dataset.features:
            return asked
        raise DataError(
            f"The data set '{data.name}' has no column '{asked}' (data.{kind}-column). "
            f"Its columns are: {columns}."
        )
    lists = [n for n in preferred if n in dataset.features and _is_list(dataset.features[n])]
    if kind == "label" and not candidates and lists:
        raise _several_labels(lists[0], data.name)
    named = [name for name in preferred if name in candidates]
    if len(candidates) == 1 or named:
        return named[0] if named else candidates[0]
    found = f"several columns that could hold them ({', '.join(candidates)})"
    raise DataError(
        f"The {kind}s of the data set '{data.name}' were not found: it has "
        f"{found if candidates else 'no column of that kind'}. Its columns are: {columns}. "
        f"Name the right column with data.{kind}-column."
    )


def as_images(
    dataset: datasets.Dataset, column: str, name: str, allowed: AllowedFolders | None = None
) -> datasets.Dataset:
    """Return `dataset` with `column` of the `Image` feature (paths and bytes are cast).

    `allowed` says where the files must be that its rows name; None = anywhere.

    Raises
    ------
    DataError
        If the column holds something else, or a row has no image or one that must not be read.
    """
    feature = dataset.features[column]
    is_file = isinstance(feature, dict) and set(feature) <= {"bytes", "path"}
    is_plain = getattr(feature, "dtype", "") in ("string", "binary", "large_binary")
    if isinstance(feature, datasets.Image):
        images = dataset if feature.decode else dataset.cast_column(column, datasets.Image())
    elif is_file or is_plain:
        images = dataset.cast_column(column, datasets.Image())
    else:
        raise DataError(
            f"The column '{column}' of the data set '{name}' holds {_type(feature)}, not images. "
            "Name a column of images, image files or encoded bytes with data.image-column."
        )
    check_images(images, column, name, allowed)
    return images


def as_class_labels(
    parts: Sequence[datasets.Dataset], column: str, name: str
) -> list[datasets.Dataset]:
    """Return the data sets with `column` as the same `ClassLabel` in all of them.

    The class names are those of the first part if it has any; otherwise the sorted values of
    all parts become the names (integers 0..n-1 keep their numbers). Another part may be labelled
    by names where the first is by numbers, and the other way round.

    Raises
    ------
    DataError
        If a label is missing, negative, of no class, or no integer, whole number or text.
    """
    for part in parts:
        check_label_range(part, column, name)
    feature = parts[0].features[column]
    if isinstance(feature, datasets.ClassLabel):
        own = [
            p if _has_names(p, column) else as_class_labels((p,), column, name)[0] for p in parts
        ]
        return [align_labels(part, column, tuple(feature.names), name) for part in own]
    if _is_list(feature):
        raise _several_labels(column, name)
    if not _is_plain(feature):
        raise DataError(
            f"The column '{column}' of the data set '{name}' holds {_type(feature)}, not labels. "
            "Name a column of class labels, integers or texts with data.label-column."
        )
    columns = [part.select_columns([column]).with_format("arrow")[:][column] for part in parts]
    values = [part.to_pylist() for part in columns]
    bad = sum(not _is_label(v) for part in values for v in part)
    if bad:
        raise _unlabelled(bad, column, name)
    values = [[_whole(v, column, name) for v in part] for part in values]
    texts = [[str(value).strip() for value in part] for part in values]
    numbers = all(map(_WHOLE.fullmatch, texts[0]))
    texts = [
        _named(of, part.features[column], numbers) for of, part in zip(texts, parts, strict=True)
    ]
    if all(_WHOLE.fullmatch(text) for part in texts for text in part):
        texts = [[text.partition(".")[0] for text in part] for part in texts]
    names = sorted(set().union(*texts))
    if all(map(_is_number, names)):
        names.sort(key=int)
        largest = int(names[-1])
        # Numbers with small gaps are class ids, some of which do not occur in this data set.
        if largest < 2 * len(names) + 10:
            names = [str(number) for number in range(largest + 1)]
    ids = {text: label for label, text in enumerate(names)}
    return [
        _replace(part, column, np.array([ids[text] for text in labels], dtype=np.int64), names)
        for part, labels in zip(parts, texts, strict=True)
    ]


def _named(texts: list[str], feature: object, numbers: bool) -> list[str]:
    """Return labels by their classes' names, if there are such and the first part has them."""
    names = feature.names if isinstance(feature, datasets.ClassLabel) else []
    by_number = not names or (numbers and not all(map(_is_number, names)))
    return texts if by_number else [names[int(text)] for text in texts]


def _has_names(part: datasets.Dataset, column: str) -> bool:
    return isinstance(part.features[column], datasets.ClassLabel)


def align_labels(
    dataset: datasets.Dataset, column: str, class_names: tuple[str, ...], name: str
) -> datasets.Dataset:
    """Return `dataset` with the ids of `class_names`, matched by name.

    If a data set has only numbers for names, and `class_names` has none, these are ids.

    Raises
    ------
    DataError
        If it has a class that is not in `class_names`, or an image without a label.
    """
    own = dataset.features[column].names
    labels = label_array(dataset, column)
    if len(labels) and labels.min() < 0:
        raise _unlabelled(int((labels < 0).sum()), column, name)
    if tuple(own) == class_names:
        return dataset
    used = {own[label] for label in np.unique(labels)}
    if all(text in class_names for text in used):
        ids = np.array([class_names.index(t) if t in used else -1 for t in own], dtype=np.int64)
    elif (
        all(map(_is_number, own))
        and not any(map(_is_number, class_names))
        and all(int(text) < len(class_names) for text in used)
    ):
        ids = np.array([int(text) for text in own], dtype=np.int64)
    else:
        unknown = sorted(used - set(class_names))
        raise DataError(
            f"The data set '{name}' has classes that the run does not know: {some(unknown, 10)}. "
            f"The run's classes are: {some(class_names, 10)}. Rename or remove the unknown "
            "ones, or set data.name to a data set that has all classes."
        )
    return _replace(dataset, column, ids[labels], list(class_names))


def label_array(dataset: datasets.Dataset, column: str) -> npt.NDArray[np.int64]:
    """Return the labels of all rows without reading the images."""
    values = dataset.select_columns([column]).with_format("arrow")[:][column]
    return np.array(values.to_numpy(), dtype=np.int64)


def has_labels(dataset: datasets.Dataset, column: str) -> bool:
    """Return whether any row has a label."""
    if column not in dataset.column_names:
        return False
    values = dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return any(map(_is_label, values))


def _is_label(value: object) -> bool:
    """Return whether a value is not one of those that stand for no label."""
    if isinstance(value, str):  # a table of texts has numbers, too
        try:
            return float(value) >= 0
        except ValueError:
            return value.strip() != ""
    return isinstance(value, int | float) and value >= 0  # and no NaN


def _whole(value: object, column: str, name: str) -> object:
    if not isinstance(value, float):
        return value
    if not value.is_integer():
        raise DataError(
            f"The column '{column}' of the data set '{name}' holds {value}, which is no class: "
            "labels must be texts or whole numbers. Name another column with data.label-column."
        )
    return int(value)


def _replace(
    dataset: datasets.Dataset, column: str, labels: npt.NDArray[np.int64], names: list[str]
) -> datasets.Dataset:
    feature = datasets.ClassLabel(names=names)
    if not len(dataset):  # `add_column` cannot add to every kind of empty table
        features = datasets.Features({**dataset.features, column: feature})
        return datasets.Dataset.from_dict({name: [] for name in features}, features=features)
    shows_bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()  # `datasets` draws one for a selection, even in a quiet run
    try:
        return dataset.remove_columns([column]).add_column(column, labels, feature=feature)
    finally:
        if shows_bars:
            datasets.enable_progress_bars()


def _unlabelled(count: int, column: str, name: str) -> DataError:
    return DataError(
        f"{count} images of the data set '{name}' have no label (an empty or negative '{column}'). "
        "Choose a data set, or a test split, in which every image is labelled."
    )


def _is_list(feature: object) -> bool:
    return isinstance(feature, list | datasets.Sequence | datasets.LargeList) or (
        type(feature).__name__ == "List"
    )


def _several_labels(column: str, name: str) -> DataError:
    return DataError(
        f"The column '{column}' of the data set '{name}' holds lists: several labels for an image. "
        "Every image must have one class. Name another column with data.label-column."
    )


def _is_plain(feature: object) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype.startswith(PLAIN_LABELS)


def _type(feature: object) -> str:
    if isinstance(feature, datasets.Value):
        return str(feature.dtype)
    return type(feature).__name__


def _is_number(text: str) -> bool:
    """Return whether a name is a number: "01" is a name of its own, and not the number 1."""
    # Python refuses to read thousands of digits, and no class has such a number.
    return len(text) <= _MOST_DIGITS and text.isdecimal() and text == str(int(text))
