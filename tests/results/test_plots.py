from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from fedsplit.results.plots import plot_run
from tests.results.examples import SPLIT_FACTS, UNSPLIT_FACTS, a_row, a_summary


@pytest.mark.parametrize("num_rounds", [0, 1, 3, 100])
@pytest.mark.parametrize("facts", [SPLIT_FACTS, UNSPLIT_FACTS])
def test_every_run_can_be_drawn(tmp_path: Path, num_rounds: int, facts: dict[str, Any]) -> None:
    rows = [a_row(number) for number in range(1, num_rounds + 1)]
    plot_run(rows, a_summary(rows, facts), tmp_path / "plot.png")
    pixels = imread(tmp_path / "plot.png")
    assert pixels.shape[:2] == (660, 2025)
    # Nothing is cut off: the outermost pixels on every side are white.
    for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
        assert np.all(edge == 1.0)


def test_curve_is_in_the_picture(tmp_path: Path) -> None:
    """Break it: draw no line of the test images."""

    def blue_pixels(*, measured: bool) -> int:
        rows = [a_row(number) for number in range(1, 6)]
        if not measured:
            rows = [row | {"test_accuracy": None, "test_loss": None} for row in rows]
        summary = a_summary(rows) | {"initial_accuracy": None, "initial_loss": None}
        summary["cut_uplink_bytes"] = 0  # its bar is blue, too
        plot_run(rows, summary, tmp_path / "plot.png")
        pixels = imread(tmp_path / "plot.png")[..., :3]
        return int(np.all(np.abs(pixels - np.array([0, 0x72, 0xB2]) / 255) < 0.01, axis=-1).sum())

    assert blue_pixels(measured=False) == 0
    assert blue_pixels(measured=True) > 1000


def test_missing_and_huge_values(tmp_path: Path) -> None:
    rows = [a_row(1, train_loss=None), a_row(2, train_loss=1e30, cut_uplink_bytes=10**19)]
    plot_run(rows, a_summary(rows), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_any_name_can_be_drawn(tmp_path: Path) -> None:
    rows = [a_row(1)]
    names = {"dataset": "/data/$a_$\\frac$", "model": "./m\n$"}
    plot_run(rows, a_summary(rows) | names, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").is_file()


def test_importing_loads_no_drawing_library() -> None:
    check = (
        "import sys, fedsplit.results.plots, fedsplit.results.recorder, fedsplit.results.table;"
        "print(sorted({'matplotlib', 'flwr', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
