from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit.names import local_directory, near_miss, path_fault, printable, printable_lines


def test_directories_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_directory(str(tmp_path / "photos")) == tmp_path / "photos"
    assert local_directory("~/photos") == tmp_path / "photos"
    assert local_directory(tmp_path / "file") is None
    assert local_directory(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "name", ["", "x" * 300, "~nosuchuser/x", "a\0b", "a\udc80", "x/" * 5000], ids=ascii
)
def test_what_cannot_be_a_directory_is_none(name: str) -> None:
    assert local_directory(name) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a\0b", "NUL"),
        ("a/" + "ü" * 128, "255 bytes"),
        ("~nosuchuser/x", "user who does not exist"),
    ],
)
def test_what_cannot_be_a_path_has_a_reason(name: str, fault: str) -> None:
    assert fault in str(path_fault(name))


@pytest.mark.parametrize("name", ["runs", "~/runs", "a/" * 500, "ü" * 127, "a~b"])
def test_what_can_be_a_path(name: str) -> None:
    assert path_fault(name) is None


def test_a_name_is_shown_in_one_line() -> None:
    assert printable("größe $1 猫") == "größe $1 猫"
    assert printable("a\nb\tc\x00d\udc80") == "a\ufffdb\ufffdc\ufffdd\ufffd"


def test_lines_and_tabs_of_a_text_stay() -> None:
    """Break it: show a text of a stranger's as it is; a terminal follows the codes in it."""
    assert printable_lines("a\tb\n├── größe\n") == "a\tb\n├── größe\n"
    assert printable_lines("a\x1b[2J\tb\r\n\x07c\u202e") == "a\ufffd[2J\tb\ufffd\n\ufffdc\ufffd"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("vit_nano", "vit-nano"), ("ViT-Nano", "vit-nano"), ("me/vit-nano", None), ("gpt2", None)],
)
def test_a_near_miss_is_a_name_without_a_slash(name: str, meant: str | None) -> None:
    assert near_miss(name, ["vit-nano"]) == meant
