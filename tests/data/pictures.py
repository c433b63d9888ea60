"""Small labelled image data sets for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from fedsplit.input_spec import InputSpec

SMALL = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))


def picture(seed: int, mode: str = "L", size: int = 8) -> Image.Image:
    shape = (size, size) if mode == "L" else (size, size, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def labelled(
    labels: list[int], names: list[str] | None = None, mode: str = "L", size: int = 8
) -> datasets.Dataset:
    """Return a data set with a picture for each label."""
    names = names or [f"class {label}" for label in range(max(labels, default=0) + 1)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    images = [picture(seed, mode, size) for seed in range(len(labels))]
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def image_folder(folder: Path, counts: dict[str, int]) -> Path:
    """Write so many PNG files into each class folder."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for seed in range(count):
            picture(seed).save(folder / name / f"{seed:03}.png")
    return folder
