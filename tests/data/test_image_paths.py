"""A data set names files in its own folder only."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest

from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_data_path, load_images
from fedsplit.data.image_paths import AllowedFolders, check_images, is_inside
from fedsplit.errors import DataError
from tests.data.pictures import labelled, picture
from tests.data.strangers import encoded

FEATURES = datasets.Features(
    {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
)


def saved(folder: Path, paths: list[str]) -> Path:
    """Save a data set that names one image by each path, and has the bytes of all others."""
    files = [{"bytes": encoded(picture(n)), "path": f"{n}.png"} for n in range(10)]
    named = [{"bytes": None, "path": path} for path in paths]
    count = len(files) + len(named)
    rows = {"image": [*files, *named], "label": [n % 2 for n in range(count)]}
    dataset = datasets.Dataset.from_dict(rows, features=FEATURES)
    # `save_to_disk` itself would read what the rows name.
    kept = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({**FEATURES, "image": kept})
    table = dataset.data.table.cast(features.arrow_schema)
    datasets.Dataset(table).cast(features).save_to_disk(folder)
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "me.png"
    path.parent.mkdir()
    picture(77).save(path)
    return path


def config(folder: Path, *, follow_links: bool = False) -> DataConfig:
    return DataConfig(name=str(folder), image_column="image", follow_links=follow_links)


@pytest.mark.parametrize(
    "address",
    [
        "https://10.255.255.1/1.png",
        "s3://bucket/1.png",
        "hf://datasets/a/1.png",
        "zip://1.png::a.zip",
    ],
)
def test_an_address_in_a_saved_data_set_is_refused_by_its_row(tmp_path: Path, address: str) -> None:
    """Break it: leave it to whoever decodes the image."""
    saved(tmp_path, [address])
    message = rf"Row 10 of the data set '.*' names '{address}' in the column 'image': .* fetches"
    with pytest.raises(DataError, match=message):
        load_images(config(tmp_path))
    with pytest.raises(DataError, match=message):
        load_data_path(tmp_path, config(tmp_path))


def test_an_address_in_the_users_own_object_is_refused_too() -> None:
    rows = [{"bytes": None, "path": "https://10.255.255.1/1.png"}]
    own = datasets.Dataset.from_dict({"image": rows, "label": [0]}, features=FEATURES)
    with pytest.raises(DataError, match=r"Row 0 of the data set 'mine' .* Download it first"):
        check_images(own, "image", "mine", None)


def test_the_users_own_object_may_name_any_file(outside: Path) -> None:
    rows = {"image": [str(outside)], "label": [0]}
    check_images(datasets.Dataset.from_dict(rows, features=FEATURES), "image", "mine", None)


@pytest.mark.parametrize("way", ["absolute", "up", "link", "folder link"])
def test_a_path_that_leads_out_of_a_saved_data_set_is_refused(
    tmp_path: Path, outside: Path, way: str
) -> None:
    """Break it: compare paths as they are written, without resolving them."""
    folder = tmp_path / "data"
    paths = {
        "absolute": str(outside),
        "up": "../private/me.png",
        "link": "me.png",
        "folder link": "more/me.png",
    }
    saved(folder, [paths[way]])
    (folder / "me.png").symlink_to(outside)
    (folder / "more").symlink_to(outside.parent)
    with pytest.raises(DataError, match=rf"Row 10 .* '{paths[way]}' .* leads out .* '{folder}'"):
        load_images(config(folder))
    following = config(folder, follow_links=True)
    if "link" in way:
        assert picture(77).tobytes() in _pictures(following)
    else:
        with pytest.raises(DataError, match="leads out"):
            load_images(following)


def _pictures(data: DataConfig) -> set[bytes]:
    from fedsplit.data.decode import decode

    images = load_images(data)
    rows = [
        file
        for part in (images.train, images.test)
        for file in part.with_format("arrow")[:]["image"].to_pylist()
    ]
    return {decode(f, place=str, channels=1, bounds=images.bounds).tobytes() for f in rows}


@pytest.mark.parametrize("way", ["relative", "absolute", "by the link of the folder"])
def test_files_in_the_folder_are_read_wherever_the_process_is(tmp_path: Path, way: str) -> None:
    """Break it: let relative paths begin in the working directory."""
    folder, link = tmp_path / "data", tmp_path / "link"
    link.symlink_to(folder)
    paths = {
        "relative": "files/1.png",
        "absolute": str(folder / "files/1.png"),
        "by the link of the folder": str(link / "files/1.png"),
    }
    saved(folder, [paths[way]])
    (folder / "files").mkdir()
    picture(50).save(folder / "files" / "1.png")
    for name in (folder, link):
        assert picture(50).tobytes() in _pictures(config(name))


def test_paths_beside_bytes_are_only_names(tmp_path: Path) -> None:
    """`datasets` keeps the names of files whose bytes it has saved; nobody reads these files."""
    rows = [{"bytes": encoded(picture(n)), "path": f"/private/{n}.png"} for n in range(12)]
    columns = {"image": rows, "label": [0, 1] * 6}
    datasets.Dataset.from_dict(columns, features=FEATURES).save_to_disk(tmp_path)
    assert len(_pictures(config(tmp_path))) == 12


def test_a_path_with_a_nul_is_refused(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": "a\0b"}]
    dataset = datasets.Dataset.from_dict({"image": rows, "label": [0]}, features=FEATURES)
    with pytest.raises(DataError, match=r"Row 0 .* NUL"):
        check_images(dataset, "image", "x", AllowedFolders(str(tmp_path)))


def test_folders_that_begin_alike_are_two() -> None:
    """Break it: compare texts without the separator."""
    assert is_inside("/a/b", "/a/b")
    assert is_inside("/a/b/c", "/a/b")
    assert not is_inside("/a/bc", "/a/b")
    assert is_inside("/a", "/")


def test_a_data_set_without_paths_costs_no_look_at_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AllowedFolders, "real", lambda *_: pytest.fail("it looked"))
    check_images(labelled([0, 1]), "image", "x", AllowedFolders(os.curdir))
