"""Links, pipes and devices in folders of images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_images
from fedsplit.data.folders import read_folder
from fedsplit.errors import DataError
from tests.data.pictures import image_folder, picture
from tests.data.strangers import SPECIAL, pipe


def num_images(folder: Path, *, follow_links: bool = False) -> int:
    images = load_images(DataConfig(name=str(folder), follow_links=follow_links))
    return len(images.train) + len(images.test)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("called", "make"), SPECIAL.items(), ids=["pipe", "socket", "device"])
@pytest.mark.parametrize("name", ["x.png", "x"])
def test_what_is_no_file_is_named_without_waiting(
    tmp_path: Path,
    name: str,
    called: str,
    make: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Break it: let Pillow open everything to see whether it is an image."""
    image_folder(tmp_path, {"a": 6, "b": 6})
    make(tmp_path / "a" / name)
    if name == "x.png":
        with pytest.raises(DataError, match=rf"a/x\.png' is {called}, not an image file"):
            read_folder(tmp_path)
        return
    assert num_images(tmp_path) == 12
    assert "are no images that can be read, and are left out: a/x." in caplog.text


@pytest.mark.timeout(30)
def test_a_table_that_is_a_pipe_is_no_table(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 6, "b": 6})
    pipe(tmp_path / "metadata.csv")
    assert num_images(tmp_path) == 12


def test_the_folder_itself_may_be_a_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image_folder(tmp_path / "data", {"a": 6, "b": 6})
    (tmp_path / "link").symlink_to("data")
    assert num_images(tmp_path / "link") == 12
    assert caplog.text == ""


def test_linked_folders_that_lead_out_are_used_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: say nothing, or name links that stay inside."""
    image_folder(tmp_path / "elsewhere", {"b": 6, "more": 2})
    data = image_folder(tmp_path / "data", {"a": 6})
    (data / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (data / "a" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    with caplog.at_level(logging.WARNING):
        assert num_images(data) == 14
    assert f"{data / 'b'} -> {tmp_path / 'elsewhere' / 'b'}" in caplog.text
    assert "2 folders in" in caplog.text
    image_folder(tmp_path / "c", {"x/more": 6, "y": 6})
    (tmp_path / "c" / "y" / "again").symlink_to("../x/more")
    caplog.clear()
    assert num_images(tmp_path / "c") == 18
    assert "lead out" not in caplog.text


def test_a_linked_file_that_leads_out_is_refused_unless_links_are_followed(tmp_path: Path) -> None:
    """Break it: resolve the link, and read whatever is there."""
    data = image_folder(tmp_path / "data", {"a": 6, "b": 6})
    picture(50).save(tmp_path / "mine.png")
    (data / "a" / "x.png").symlink_to(tmp_path / "mine.png")
    with pytest.raises(DataError, match=r"a/x\.png' leads to '.*mine\.png': .*data.follow-links"):
        num_images(data)
    assert num_images(data, follow_links=True) == 13


def test_linked_files_that_stay_inside_are_read(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"a": 6, "b": 6, ".store": 2})
    (data / "a" / "x.png").symlink_to("../.store/000.png")
    (tmp_path / "elsewhere").mkdir()
    picture(51).save(tmp_path / "elsewhere" / "one.png")
    (tmp_path / "elsewhere" / "two.png").symlink_to("one.png")
    (data / "b" / "more").symlink_to(tmp_path / "elsewhere")
    assert num_images(data) == 15


@pytest.mark.timeout(60)
@pytest.mark.parametrize("target", ["/", "..", "/proc", "/sys"])
@pytest.mark.parametrize("where", ["c", "a/c"])
def test_links_to_the_whole_machine_are_refused(tmp_path: Path, where: str, target: str) -> None:
    """Break it: follow every link. The walk does not end, or opens files of the kernel."""
    data = image_folder(tmp_path / "data", {"a": 6, "b": 6})
    (data / where).symlink_to(tmp_path if target == ".." else target)
    with pytest.raises(DataError, match=rf"The link '.*{where}' leads to .* Remove the link"):
        num_images(data)


def test_data_sets_in_the_memory_of_the_machine_are_read(tmp_path: Path) -> None:
    folder = Path("/dev/shm") / f"fedsplit-{os.getpid()}"
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("this system has none")
    try:
        image_folder(folder, {"a": 6, "b": 6})
        assert num_images(folder) == 12
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()


@pytest.mark.timeout(60)
def test_links_that_lead_back_and_forth_end(tmp_path: Path) -> None:
    """Break it: search for the likely level without remembering where it has been."""
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        for link in ("c", "d", "e"):
            (tmp_path / name / link).symlink_to(".")
    with pytest.raises(DataError, match="hold only folders"):
        read_folder(tmp_path)
