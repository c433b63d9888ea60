from __future__ import annotations

import io
from typing import Any

import datasets
import pytest

from fedsplit.config import DataConfig
from fedsplit.data.columns import (
    align_labels,
    as_class_labels,
    as_images,
    find_columns,
    label_array,
)
from fedsplit.errors import DataError
from tests.data.pictures import labelled, picture


def rows(**columns: list[Any]) -> datasets.Dataset:
    number = list(range(len(next(iter(columns.values())))))
    return datasets.Dataset.from_dict({**columns, "row": number})


def test_columns_are_found_by_type() -> None:
    dataset = labelled([0, 1]).rename_columns({"image": "photo", "label": "kind"})
    assert find_columns(dataset, DataConfig()) == ("photo", "kind")


def test_of_several_class_columns_the_usual_name_wins() -> None:
    names = datasets.ClassLabel(names=["a", "b"])
    dataset = labelled([0, 1]).rename_column("label", "fine_label")
    dataset = dataset.add_column("coarse_label", [1, 0], feature=names)
    assert find_columns(dataset, DataConfig())[1] == "fine_label"
    assert find_columns(dataset, DataConfig(label_column="coarse_label"))[1] == "coarse_label"


def test_plain_labels_are_found_by_name() -> None:
    dataset = rows(image=[picture(0)], size=[3], labels=[1])
    assert find_columns(dataset, DataConfig())[1] == "labels"


@pytest.mark.parametrize(
    ("columns", "data", "message"),
    [
        ({"text": ["a"], "label": [0]}, DataConfig(), r"images .* no column .* data.image-column"),
        ({"image": [picture(0)], "n": [1]}, DataConfig(), r"labels .* data.label-column"),
        ({"image": [picture(0)], "label": [1]}, DataConfig(image_column="x"), "no column 'x'"),
        ({"a": [picture(0)], "b": [picture(0)], "label": [1]}, DataConfig(), r"several .*a, b"),
    ],
)
def test_unclear_columns_are_listed(
    columns: dict[str, Any], data: DataConfig, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        find_columns(rows(**columns), data)
    assert all(name in str(caught.value) for name in columns)


def test_encoded_bytes_become_images() -> None:
    png = io.BytesIO()
    picture(3).save(png, "PNG")
    dataset = as_images(rows(data=[png.getvalue()]), "data", "x")
    assert dataset[0]["data"].tobytes() == picture(3).tobytes()
    with pytest.raises(DataError, match="holds int64, not images"):
        as_images(rows(data=[1]), "data", "x")


@pytest.mark.parametrize("kind", ["bytes", "file", "path"])
def test_rows_without_an_image_are_refused(kind: str) -> None:
    png = io.BytesIO()
    picture(3).save(png, "PNG")
    there: dict[str, object] = {
        "bytes": png.getvalue(),
        "file": {"bytes": png.getvalue(), "path": None},
        "path": "photo.png",
    }
    nulls = [None, {"bytes": None, "path": None} if kind == "file" else None]
    dataset = rows(photo=[there[kind], there[kind], *nulls])
    with pytest.raises(DataError, match=r"2 rows of .* 'x' .*null in 'photo'; .* row 2\)"):
        as_images(dataset, "photo", "x")
    assert len(as_images(dataset.select([0, 1]), "photo", "x")) == 2
    # Of the feature that needs no cast, too.
    image = datasets.Dataset.from_dict(
        {"photo": [picture(0), None]}, features=datasets.Features({"photo": datasets.Image()})
    )
    with pytest.raises(DataError, match=r"1 rows of .* row 1\)"):
        as_images(image, "photo", "x")


@pytest.mark.parametrize(
    ("train", "test", "names", "labels"),
    [
        ([2, 0, 1], [1], ["0", "1", "2"], [2, 0, 1]),
        ([3, 1], [0], ["0", "1", "2", "3"], [3, 1]),
        ([1000, 7], [7], ["7", "1000"], [1, 0]),
        (["dog", "cat"], ["ape"], ["ape", "cat", "dog"], [2, 1]),
        ([True, False], [True], ["False", "True"], [1, 0]),
    ],
)
def test_plain_labels_become_class_labels(
    train: list[Any], test: list[Any], names: list[str], labels: list[int]
) -> None:
    parts = as_class_labels([rows(y=train), rows(y=test)], "y", "x")
    assert all(part.features["y"].names == names for part in parts)
    assert label_array(parts[0], "y").tolist() == labels
    assert label_array(parts[1], "y").tolist() == [names.index(str(test[0]))]


_CATS = ["cat", "dog"]


@pytest.mark.parametrize(
    ("train", "test", "names", "labels"),
    [
        (labelled([0, 1], _CATS), rows(label=[1, 1, 0]), _CATS, [1, 1, 0]),
        (labelled([0, 1], _CATS), rows(label=["1", "0"]), _CATS, [1, 0]),
        (labelled([0, 1], _CATS), rows(label=["dog"]), _CATS, [1]),
        (labelled([0, 1], ["1", "2"]), rows(label=[2]), ["1", "2"], [1]),
        (rows(label=_CATS), labelled([0, 1], ["dog", "cat"]), _CATS, [1, 0]),
        (rows(label=[0, 1]), labelled([1, 0], ["dog", "cat"]), ["0", "1"], [1, 0]),
        (rows(label=["1", "2"]), labelled([1, 0], ["1", "2"]), ["0", "1", "2"], [2, 1]),
    ],
)
def test_a_part_may_have_class_names_where_the_other_has_plain_labels(
    train: datasets.Dataset, test: datasets.Dataset, names: list[str], labels: list[int]
) -> None:
    """Class folders for one, a table for the other. Break it: take numbers of classes for names."""
    parts = as_class_labels([train, test], "label", "x")
    assert [part.features["label"].names for part in parts] == [names, names]
    assert label_array(parts[1], "label").tolist() == labels


def test_plain_labels_that_a_named_part_does_not_know_are_refused() -> None:
    for unknown in (["yak"], [2]):
        with pytest.raises(DataError, match=r"does not know: (yak|2)\. The run's classes are: cat"):
            as_class_labels([labelled([0, 1], _CATS), rows(label=unknown)], "label", "x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, None], "1 images .* no label"),
        ([0.5], "holds 0.5, which is no class"),
        ([[0, 1]], "several labels for an image"),
        ([-1, 0], "negative"),
    ],
)
def test_what_is_no_label_is_refused(values: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_class_labels([rows(y=values)], "y", "x")


def test_a_number_of_thousands_of_digits_is_a_text() -> None:
    """Break it: let `int` read it, which Python refuses."""
    long = "9" * 5000
    (part,) = as_class_labels((rows(label=[long, "1", long]),), "label", "x")
    assert (part.features["label"].names, part["label"][:]) == (["1", long], [1, 0, 1])


def test_unlabelled_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"1 images .* have no label"):
        as_class_labels([labelled([0, 1]), labelled([-1, 1], ["class 0", "class 1"])], "label", "x")


def test_alignment_is_by_name() -> None:
    dataset = labelled([0, 1, 1], ["dog", "cat"])
    aligned = align_labels(dataset, "label", ("ant", "cat", "dog"), "x")
    assert label_array(aligned, "label").tolist() == [2, 1, 1]
    assert aligned.features["label"].names == ["ant", "cat", "dog"]
    assert align_labels(dataset, "label", ("dog", "cat"), "x") is dataset


def test_numbers_without_names_are_the_runs_class_ids() -> None:
    (dataset,) = as_class_labels([rows(label=[2, 2])], "label", "x")
    aligned = align_labels(dataset, "label", ("ant", "cat", "dog"), "x")
    assert label_array(aligned, "label").tolist() == [2, 2]


def test_numbers_that_are_names_of_the_run_are_no_ids() -> None:
    """Break it: take "0", which the run does not know, for its first class, "1"."""
    own = labelled([0, 1, 2], ["0", "1", "2"])
    with pytest.raises(DataError, match=r"classes that the run does not know: 0\. The run's"):
        align_labels(own, "label", ("1", "2", "3"), "x")
    known = align_labels(own.select([1, 2]), "label", ("1", "2", "3"), "x")
    assert known["label"][:] == [0, 1]


def test_unknown_classes_are_named() -> None:
    with pytest.raises(DataError, match=r"does not know: yak.*classes are: ant, cat"):
        align_labels(labelled([0], ["yak"]), "label", ("ant", "cat"), "x")


def test_labels_of_chosen_rows_draw_no_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """A quiet run shows none. Break it: leave the bars of `datasets` on."""
    assert datasets.is_progress_bar_enabled()
    part = rows(y=["a", "b", "a", "b"]).select([3, 0, 2])
    (labels,) = as_class_labels([part], "y", "x")
    assert (labels["y"][:], capsys.readouterr().err) == ([1, 0, 0], "")
    assert datasets.is_progress_bar_enabled()
