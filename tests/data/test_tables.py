from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_images
from fedsplit.data.tables import read_table
from fedsplit.errors import DataError
from tests.data.pictures import image_folder


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
    ],
)
def test_a_table_with_a_fault_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(table_of(tmp_path, text))


def test_a_table_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metadata.jsonl' cannot be read"):
        read_table(table_of(tmp_path, "{", "metadata.jsonl"))


def test_another_metadata_csv_beside_class_folders_is_no_table(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "metadata.csv").write_text("author,year\nme,2026\n")
    assert load_images(DataConfig(name=str(tmp_path))).class_names == ("a", "b")
