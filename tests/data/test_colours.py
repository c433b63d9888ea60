from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsplit import simulate


def _folder(path: Path, mode: str) -> Path:
    random = np.random.default_rng(1)
    for number in range(40):
        place = path / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (20, 20, 3), dtype=np.uint8)
        grey = Image.fromarray(pixels).convert("L")
        (Image.fromarray(pixels) if mode == "colour" else grey.convert(mode)).save(
            place / f"{number}.png"
        )
    return path


@pytest.mark.parametrize(("mode", "told"), [("colour", True), ("RGB", False), ("L", False)])
def test_dropped_colours_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, undrawn: None, mode: str, told: bool
) -> None:
    """Break it: judge by the mode of the file; grey images saved as RGB have no colours."""
    keys = {"num-clients": 2, "num-server-rounds": 1, "batch-size": 8, "seed": 3}
    folder = _folder(tmp_path / "images", mode)
    simulate(keys, data_name=str(folder), output_dir=str(tmp_path / "runs"))
    assert caplog.text.count("colours are dropped") == told
