from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsplit.data.view import plot_shards, shard_table

NAMES = ["cat", "dog", "a class with a long name"]


def test_a_small_table_holds_every_number() -> None:
    table = shard_table([[10, 0, 5], [1, 2, 1000]], NAMES)
    lines = table.splitlines()
    assert (
        lines[0] == "1,018 images, 2 clients: 15 to 1,003 images (median 509), 2 to 3 classes "
        "(median 2)"
    )
    assert lines[2].split() == ["0", "10", "-", "5", "15"]
    assert lines[3].split() == ["1", "1", "2", "1000", "1003"]
    assert lines[4].split() == ["all", "11", "2", "1005", "1018"]


@pytest.mark.parametrize("num_clients", [1, 10, 100])
@pytest.mark.parametrize("num_classes", [1, 10, 14, 15, 1000])
def test_tables_are_narrow_and_short(num_clients: int, num_classes: int) -> None:
    counts = np.random.default_rng(0).poisson(900, (num_clients, num_classes))
    names = [f"class with a name {n}" for n in range(num_classes)]
    lines = shard_table(counts.tolist(), names).splitlines()
    assert max(len(line) for line in lines) <= 100
    assert len(lines) <= 23
    assert f"{counts.sum()}" in lines[-1]


def test_many_clients_are_cut_to_the_largest_and_the_smallest() -> None:
    counts = [[n + 1] for n in range(30)]
    lines = shard_table(counts, ["only"]).splitlines()
    clients = [line.split()[0] for line in lines[2:-1]]
    assert clients == ["29", "28", "27", "26", "25", "...", "4", "3", "2", "1", "0"]
    assert "(20 more clients" in lines[7]


def test_many_classes_are_cut_to_the_largest() -> None:
    counts = [[0] * 50]
    counts[0][7], counts[0][9] = 3, 40
    lines = shard_table(counts, [f"c{n}" for n in range(50)]).splitlines()
    assert lines[2].split() == ["0", "43", "2", "c9", "40,", "c7", "3"]


@pytest.mark.parametrize(("num_clients", "num_classes"), [(10, 10), (100, 10), (3, 200), (1, 1)])
def test_a_picture_is_drawn(tmp_path: Path, num_clients: int, num_classes: int) -> None:
    counts = np.random.default_rng(0).poisson(2, (num_clients, num_classes)).tolist()
    plot_shards(counts, [str(n) for n in range(num_classes)], tmp_path / "shards.png")
    with Image.open(tmp_path / "shards.png") as image:
        assert image.width > 800
        assert len(set(image.convert("L").tobytes())) > 20


def test_clients_that_are_left_out_do_not_count() -> None:
    lines = shard_table([[3, 0], [0, 0], [2, 3], [0, 0]], ["a", "b"]).splitlines()
    said = "8 images, at 2 of 4 clients: 3 to 5 images (median 4), 1 to 2 classes (median 2)"
    assert lines[0] == said
    assert lines[3].split() == ["1", "-", "-", "0"]


def test_any_class_name_keeps_its_line(tmp_path: Path) -> None:
    names = ["a\nb", "$\\frac$"]
    lines = shard_table([[1, 2]], names).splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["client", "a\ufffdb", "$\\frac$", "total"]
    plot_shards([[1, 2]], names, tmp_path / "shards.png")
    assert (tmp_path / "shards.png").is_file()


def test_no_images_at_all_can_be_drawn(tmp_path: Path) -> None:
    plot_shards([[0, 0]], ["a", "b"], tmp_path / "shards.png")
    assert shard_table([[0, 0]], ["a", "b"]).startswith("0 images, 1 client: 0 images each")


def test_pyplot_is_not_needed() -> None:
    assert "matplotlib.pyplot" not in vars(sys.modules["fedsplit.data.view"])
