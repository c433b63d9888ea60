from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import pytest

from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_images
from fedsplit.data.folders import read_folder
from fedsplit.data.tables import read_splits, read_table
from fedsplit.errors import DataError
from tests.data.pictures import image_folder, picture


def table_of(folder: Path, text: str, name: str = "metadata.csv") -> Path:
    image_folder(folder, {".": 4})
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


CSV = "file_name,label\n" + "".join(f"{n:03}.png,{n % 2:02}\n" for n in range(4))
JSON = "".join(f'{{"file_name": "{n:03}.png", "label": "{n % 2:02}"}}\n' for n in range(4))


@pytest.mark.parametrize(("text", "name"), [(CSV, "metadata.csv"), (JSON, "metadata.jsonl")])
def test_labels_of_a_table_keep_their_text(tmp_path: Path, text: str, name: str) -> None:
    """Break it: let pandas or pyarrow guess that "01" is the number 1."""
    table_of(tmp_path / "train", text, name)
    table_of(tmp_path / "Test", text, name)
    images = load_images(DataConfig(name=str(tmp_path)))
    assert images.class_names == ("00", "01")
    assert (images.train["label"][:], images.test["label"][:]) == ([0, 1, 0, 1], [0, 1, 0, 1])
    assert images.train[0]["image"].size == (8, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na.png,0\n", "no column 'file_name'. Its columns: name, label"),
        ("", "Its columns: none"),
        ("file_name,label\n000.png,0\nno.png,1\n", "1 of 2 images .* first is 'no.png'"),
        ("file_name,label\n000.png,0\n001.png,1,2\n", "Row 1 of .* other columns than row 0"),
        ("file_name,label,label\n000.png,0,1\n", "cannot be read: it has the column 'label' twice"),
        ("file_name,image\n000.png,/etc/passwd\n", "has a column 'image' beside 'file_name'"),
    ],
)
def test_a_table_with_a_fault_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(table_of(tmp_path, text))


def test_a_key_that_a_row_has_twice_is_refused(tmp_path: Path) -> None:
    """Break it: read the lines with `json`, which keeps the last value."""
    text = '{"file_name": "000.png", "label": "a", "label": "b"}\n'
    with pytest.raises(DataError, match=r"cannot be read: the key 'label' is there twice"):
        read_table(table_of(tmp_path, text, "metadata.jsonl"))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_column_called_image_names_no_other_files(tmp_path: Path, name: str) -> None:
    """Break it: let it take the place of the checked files; then any file can be read."""
    outside = tmp_path / "outside.png"
    picture(1).save(outside)
    rows = [
        {"file_name": f"{n:03}.png", "image": str(outside), "label": "ab"[n % 2]} for n in range(4)
    ]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    if name.endswith("csv"):
        text = "\n".join(
            ",".join(line) for line in [list(rows[0]), *(list(r.values()) for r in rows)]
        )
    table_of(tmp_path / "data", text, name)
    with pytest.raises(DataError, match=r"column 'image' .* rename or remove the other one"):
        load_images(DataConfig(name=str(tmp_path / "data")))


def test_several_columns_may_have_no_name(tmp_path: Path) -> None:
    text = "file_name,label,,\n000.png,0,,\n001.png,1,,\n"
    assert len(read_table(table_of(tmp_path, text))) == 2


def test_a_table_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metadata.jsonl' cannot be read"):
        read_table(table_of(tmp_path, "{", "metadata.jsonl"))


def _table_above(folder: Path, rows: str, header: str = "file_name,label") -> DataConfig:
    """Write a table beside train/ and test/, which hold four images each."""
    for split in ("train", "test"):
        image_folder(folder / split, {"batch0": 4})
    (folder / "metadata.csv").write_text(f"{header}\n{rows}", encoding="utf-8")
    return DataConfig(name=str(folder))


def test_a_table_beside_the_splits_has_the_images_of_all(tmp_path: Path) -> None:
    """Break it: take the folders below the splits as classes, or test images to train."""
    places = [f"{split}/batch0/{n:03}.png" for split in ("train", "test") for n in range(4)]
    rows = "".join(f"{place},{'dog' if n % 2 else 'cat'}\n" for n, place in enumerate(places))
    images = load_images(_table_above(tmp_path, rows))
    assert images.class_names == ("cat", "dog")
    for split in ("train", "test"):
        part = getattr(images, split)
        assert part["label"][:] == [0, 1, 0, 1]
        assert all(f"/{split}/" in path for path in _paths(part))


def test_one_folder_called_like_a_split_is_none(tmp_path: Path) -> None:
    """A train among buses. Break it: take the buses for no images."""
    image_folder(tmp_path, {"train": 4, "bus": 4})
    rows = "".join(f"{kind}/{n:03}.png,{kind}\n" for kind in ("train", "bus") for n in range(4))
    (tmp_path / "metadata.csv").write_text(f"file_name,label\n{rows}")
    found = read_splits(tmp_path / "metadata.csv")
    assert {split: len(part) for split, part in found.items()} == {"train": 8}


def test_splits_without_one_to_train_are_refused(tmp_path: Path) -> None:
    """Break it: train on the test images."""
    rows = "test/batch0/000.png,a\ntest/batch0/001.png,b\n"
    with pytest.raises(DataError, match="no images in a split called 'train'"):
        load_images(_table_above(tmp_path, rows))


def test_a_column_may_name_the_split_of_each_row(tmp_path: Path) -> None:
    rows = "".join(
        f"train/batch0/{n:03}.png,{'ab'[n % 2]},{'Training' if n < 2 else 'eval'}\n"
        for n in range(4)
    )
    images = load_images(_table_above(tmp_path, rows, "file_name,label,split"))
    assert (len(images.train), len(images.test)) == (2, 2)
    assert [path[-7:] for path in _paths(images.test)] == ["002.png", "003.png"]


def _paths(dataset: datasets.Dataset) -> list[str]:
    return [
        file["path"] for file in dataset.cast_column("image", datasets.Image(decode=False))["image"]
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "train/batch0/000.png,a\ntest/batch0/000.png,b\nmore/1.png,a\n",
            r"folders called like splits, and others are not: more/1\.png",
        ),
        (
            "train/batch0/000.png,a\ntrain/batch0/001.png,b\ntrain/batch0/000.png,b\n",
            r"rows 0 and 2 of .* name the same image, '000\.png'",
        ),
    ],
)
def test_rows_that_contradict_each_other_are_refused(
    tmp_path: Path, rows: str, message: str
) -> None:
    (tmp_path / "more").mkdir()
    image_folder(tmp_path / "more", {".": 2})
    (tmp_path / "more" / "000.png").rename(tmp_path / "more" / "1.png")
    with pytest.raises(DataError, match=message):
        load_images(_table_above(tmp_path, rows))


def test_a_split_that_is_none_is_refused(tmp_path: Path) -> None:
    """Break it: look at the folders of all rows then, and train on the rows of `test`."""
    splits = ["train", "train", "test", "tset"]
    rows = "".join(f"{n:03}.png,{n % 2},{split}\n" for n, split in enumerate(splits))
    table = table_of(tmp_path, f"file_name,label,split\n{rows}")
    with pytest.raises(DataError, match=r"Row 3 of .* has 'tset' in the column 'split'"):
        read_splits(table)


def test_a_column_of_other_splits_is_no_matter(tmp_path: Path) -> None:
    rows = "".join(f"{n:03}.png,{n % 2},fold{n}\n" for n in range(4))
    found = read_splits(table_of(tmp_path, f"file_name,label,split\n{rows}"))
    assert {split: len(part) for split, part in found.items()} == {"train": 4}


def test_two_tables_of_one_split_are_refused(tmp_path: Path) -> None:
    data = _table_above(tmp_path, "train/batch0/000.png,a\n")
    table_of(tmp_path / "train", CSV)
    with pytest.raises(DataError, match=r"both name images\. Keep one table for all splits"):
        load_images(data)


def test_images_without_a_row_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Break it: leave them out without a word."""
    read_table(table_of(tmp_path, "file_name,label\n000.png,0\n002.png,1\n"))
    assert "2 images beside" in caplog.text
    assert "are left out: 001.png, 003.png." in caplog.text


def test_whole_numbers_of_a_table_are_the_same_class_in_any_form(tmp_path: Path) -> None:
    """pandas writes 1.0 for 1 in a column with gaps. Break it: take "1.0" for another class."""
    table_of(tmp_path / "train", CSV.replace(",00", ",0.0").replace(",01", ",1.0 "))
    table_of(tmp_path / "test", CSV.replace(",00", ",0").replace(",01", ",1"))
    images = load_images(DataConfig(name=str(tmp_path)))
    assert images.class_names == ("0", "1")
    assert images.test["label"][:] == images.train["label"][:] == [0, 1, 0, 1]


@pytest.mark.parametrize("label", ["nan", "-1", " "])
def test_a_row_of_a_table_without_a_label_is_refused(tmp_path: Path, label: str) -> None:
    table_of(tmp_path, CSV.replace(",00", f",{label}", 1))
    with pytest.raises(DataError, match=r"1 images of the data set .* have no label"):
        load_images(DataConfig(name=str(tmp_path)))


def test_another_metadata_csv_beside_class_folders_is_no_table(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "metadata.csv").write_text("author,year\nme,2026\n")
    assert load_images(DataConfig(name=str(tmp_path))).class_names == ("a", "b")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("https://10.255.255.1/1.png", r"fetches nothing that a data set names"),
        ("hf://datasets/a/1.png", r"fetches nothing"),
        ("ABSOLUTE", r"leads out of the data set's folder"),
        ("../out/private.png", r"leads out of the data set's folder"),
        ("link.png", r"leads out .* data.follow-links"),
        ("more/private.png", r"leads out .* data.follow-links"),
        ("pipe.png", r"that is a named pipe \(FIFO\), not a file"),
        ("a\0b", r"NUL"),
        ("a" * 5000, r"do not exist"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.timeout(30)
def test_a_table_names_files_in_the_data_set_only(
    tmp_path: Path, kind: str, name: str, said: str
) -> None:
    """Break it: open whatever a row names."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    out.mkdir()
    picture(1).save(data / "0.png")
    picture(2).save(out / "private.png")
    (data / "link.png").symlink_to(out / "private.png")
    (data / "more").symlink_to(out)
    os.mkfifo(data / "pipe.png")
    name = str(out / "private.png") if name == "ABSOLUTE" else name
    rows = [{"file_name": "0.png", "label": "a"}, {"file_name": name, "label": "b"}]
    table = data / f"metadata.{kind}"
    if kind == "jsonl":
        table.write_text("\n".join(map(json.dumps, rows)))
    else:
        table.write_text(f"file_name,label\n0.png,a\n{name},b\n")
    with pytest.raises(DataError, match=said) as caught:
        read_folder(data)
    assert "do not exist" in said or "Row 1 of" in str(caught.value)
    if "follow-links" in said:
        assert len(read_folder(data, follow_links=True)["train"]) == 2


@pytest.mark.parametrize("line", ["5", "[1]", "null", "[" * 100_000])
def test_lines_of_a_table_are_objects(tmp_path: Path, line: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(DataError, match=r"Row 0 of .* no JSON object|cannot be read"):
        read_folder(tmp_path)


def test_a_table_that_is_a_link_out_of_the_data_set_is_refused(tmp_path: Path) -> None:
    """Break it: read the link; its text is then in an error message."""
    (tmp_path / "secret.csv").write_text("password\n123\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(DataError, match=r"metadata\.csv' cannot be read: that leads out") as caught:
        read_folder(tmp_path / "data")
    assert "password" not in str(caught.value)


def test_files_of_a_split_may_be_beside_it(tmp_path: Path) -> None:
    """Break it: allow only the folder of the table, not that of the data set."""
    image_folder(tmp_path / "images", {"a": 2})
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        rows = "".join(f"../images/a/00{n}.png,{'ab'[n]}\n" for n in range(2))
        (tmp_path / split / "metadata.csv").write_text(f"file_name,label\n{rows}")
    assert {name: len(rows) for name, rows in read_folder(tmp_path).items()} == {
        "train": 2,
        "test": 2,
    }
