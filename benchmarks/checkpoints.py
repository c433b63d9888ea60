r"""What checkpoints cost: bytes and milliseconds a round, beside the same run without any.

Runs with `checkpoint-every` = 1 and 0 take turns in one process. A checkpoint's own time is
measured around the call that writes it, with the file and its name on the disk.

    uv run python -m benchmarks.checkpoints
    uv run python -m benchmarks.checkpoints --model torchvision:vit_b_16 --clients 1 --images 40 \
        --rounds 2 --pairs 1
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedsplit import simulate
from fedsplit.results.checkpoints import Checkpoints

_write = Checkpoints.write
_seconds: list[float] = []


def _timed_write(checkpoints: Checkpoints, *given: Any) -> None:  # noqa: ANN401 - as `write`
    started = time.perf_counter()
    _write(checkpoints, *given)
    _seconds.append(time.perf_counter() - started)


def median_round_seconds(keys: dict[str, object], every: int) -> tuple[float, int]:
    """Return the median time of a run's rounds, and the size of its last checkpoint in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        result = simulate(
            {**keys, "output-dir": folder, "checkpoint-every": every, "console": "quiet"}
        )
        sizes = [path.stat().st_size for path in Path(result.run_dir, "checkpoints").glob("*")]
        rounds = [row["round_seconds"] for row in result.rounds]
        return statistics.median(rounds), max(sizes, default=0)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit-nano")
    parser.add_argument("--strategy", default="sflv2")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--images", type=int, default=0, help="training images; 0 = all")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    Checkpoints.write = _timed_write  # type: ignore[assignment,method-assign]
    keys: dict[str, object] = {
        "strategy": asked.strategy,
        "model.name": asked.model,
        "model.pretrained": False,
        "num-clients": asked.clients,
        "num-server-rounds": asked.rounds,
        "data.max-train-samples": asked.images,
        "data.max-test-samples": min(100, asked.images or 100),
        "batch-size": min(32, max(1, asked.images // asked.clients - 4)) if asked.images else 32,
    }
    columns = ("pair", "round without, s", "round with, s", "ratio", "checkpoint, ms", "MB")
    table = Table(*columns, "of a round")
    for pair in range(1, asked.pairs + 1):
        without, _ = median_round_seconds(keys, 0)
        _seconds.clear()
        with_them, size = median_round_seconds(keys, 1)
        own = statistics.median(_seconds)
        table.add_row(
            *(str(pair), f"{without:.3f}", f"{with_them:.3f}", f"{with_them / without:.3f}"),
            *(f"{1000 * own:.1f}", f"{size / 1e6:.2f}", f"{own / without:.2%}"),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
