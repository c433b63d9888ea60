"""Make `train.jsonl` and `test.jsonl` from Fashion-MNIST's four idx files.

The files are those of the Debian package `dataset-fashion-mnist`::

    python -m fedsplit.data.fashion_mini.make [FOLDER_OF_THE_IDX_FILES] [--output FOLDER]

The first 600 (training) and 100 (test) images of each class are taken and put in one fixed,
shuffled order, so that the same idx files give the same bytes again (with the same version of
Pillow: another version's compressor may write the same pixels differently).
"""

from __future__ import annotations

import argparse
import base64
import gzip
import io
import json
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SPLITS = {"train": ("train", 600), "test": ("t10k", 100)}
NUM_CLASSES = 10
ORDER_SEED = 2017


def make(source: Path = DEBIAN_FOLDER, output: Path | None = None) -> None:
    """Write the two JSON Lines files.

    Parameters
    ----------
    source : Path
        Folder of the four ``*-ubyte.gz`` files.
    output : Path | None
        Folder to write to; None = beside this script.

    Raises
    ------
    FileNotFoundError
        If an idx file is not in `source`.
    ValueError
        If a file is not idx data, or has too few images of a class.
    """
    output = output or Path(__file__).parent
    for split, (prefix, per_class) in SPLITS.items():
        images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        rows = select(labels.tolist(), per_class)
        lines = (_record(images[row], int(labels[row])) for row in rows)
        (output / f"{split}.jsonl").write_text("".join(lines), encoding="ascii")


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes, as an array of the shape in its header."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"'{path}' is not an idx file of unsigned bytes.")
    num_axes = raw[3]
    shape = np.frombuffer(raw, ">u4", count=num_axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * num_axes).reshape([int(n) for n in shape])


def select(labels: list[int], per_class: int) -> list[int]:
    """Return the rows of the first `per_class` images of each class, in a fixed random order."""
    rows: list[int] = []
    for label in range(NUM_CLASSES):
        of_class = [row for row, value in enumerate(labels) if value == label][:per_class]
        if len(of_class) < per_class:
            raise ValueError(f"Class {label} has {len(of_class)} images, not {per_class}.")
        rows += of_class
    random.Random(ORDER_SEED).shuffle(rows)
    return rows


def _record(pixels: npt.NDArray[np.uint8], label: int) -> str:
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG", optimize=True)
    image = base64.b64encode(png.getvalue()).decode("ascii")
    return json.dumps({"label": label, "image": image}, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make fashion-mini from Fashion-MNIST.")
    parser.add_argument("source", nargs="?", type=Path, default=DEBIAN_FOLDER)
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    make(arguments.source, arguments.output)
