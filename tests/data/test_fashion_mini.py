from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import features

from fedsplit.data import fashion_mini
from fedsplit.data.fashion_mini import make

FOLDER = Path(fashion_mini.__file__).parent
# The version of zlib-ng, in Pillow, that wrote the bundled files; another may write other bytes.
MADE_WITH = "2.3.3"

needs_debian = pytest.mark.skipif(
    not make.DEBIAN_FOLDER.is_dir(),
    reason="needs Fashion-MNIST's idx files: install the Debian package dataset-fashion-mnist",
)


def test_classes_are_balanced_and_interleaved() -> None:
    splits = fashion_mini.load()
    for split, per_class in (("train", 600), ("test", 100)):
        labels = splits[split]["label"][:]
        assert Counter(labels) == dict.fromkeys(range(10), per_class)
        assert len(set(labels[:50])) >= 8, "not sorted by class"


def test_columns_are_images_and_named_classes() -> None:
    train = fashion_mini.load()["train"]
    assert train[0]["image"].size == (28, 28)
    assert train[0]["image"].mode == "L"
    assert train.features["label"].names[9] == "Ankle boot"


def test_files_fit_in_a_flower_bundle() -> None:
    total = sum(path.stat().st_size for path in FOLDER.glob("*.jsonl"))
    assert total < 5_000_000


def test_licence_keeps_the_whole_notice() -> None:
    text = re.sub(r"\s+", " ", (FOLDER / "LICENSE.md").read_text())
    assert "Copyright (c) 2017 Zalando SE" in text
    assert "The above copyright notice and this permission notice shall be included" in text
    assert "OTHER DEALINGS IN THE SOFTWARE." in text


def test_loads_in_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file, so that nothing can be made below it")
    code = "from fedsplit.data import fashion_mini as f; assert len(f.load()['train']) == 6000"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    environment |= {"HOME": str(home)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@needs_debian
def test_images_are_those_of_fashion_mnist() -> None:
    for split, (prefix, per_class) in make.SPLITS.items():
        images = make.read_idx(make.DEBIAN_FOLDER / f"{prefix}-images-idx3-ubyte.gz")
        labels = make.read_idx(make.DEBIAN_FOLDER / f"{prefix}-labels-idx1-ubyte.gz")
        rows = make.select(labels.tolist(), per_class)
        bundled = fashion_mini.load()[split]
        assert bundled["label"][:] == labels[rows].tolist()
        for position in range(0, len(rows), 7):
            pixels = np.asarray(bundled[position]["image"])
            assert np.array_equal(pixels, images[rows[position]])


@needs_debian
def test_making_them_again_gives_the_same_bytes(tmp_path: Path) -> None:
    if features.version("zlib_ng") != MADE_WITH:
        pytest.skip(
            f"Pillow compresses with zlib-ng {features.version('zlib_ng')}, not {MADE_WITH}"
        )
    make.make(make.DEBIAN_FOLDER, tmp_path)
    for name in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def test_too_few_images_of_a_class_are_refused() -> None:
    with pytest.raises(ValueError, match="Class 0 has 2 images, not 3"):
        make.select([0, 0], 3)
