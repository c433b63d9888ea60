"""Training throughput of ten split clients against the best plain loop on the same machine.

It measures the steady state, without start-up, first batch and the end of a round. In each
repetition all contenders are measured in turn, so that a change of the machine's speed affects all.
Compare the ratios.

    uv run python -m benchmarks.throughput            # both models, and one exchange over gRPC
    uv run python -m benchmarks.throughput --flower   # also one exchange by Flower's messages
    uv run python -m benchmarks.throughput --quick    # a few seconds, only to check that it works
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.contenders import Centralised, Contender, InProcess, OverGrpc
from benchmarks.exchange import by_flower, over_grpc
from benchmarks.sizes import Size, sizes
from fedsplit.threads import available_cores

_console = Console(width=140, soft_wrap=True)
PLAIN = "plain loop"


def measure(size: Size, cut_layer: int, repetitions: int, seconds: float) -> dict[str, list[float]]:
    """Return samples per second of every contender, one value for each repetition."""
    config = size.config(cut_layer)
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {
            f"{PLAIN}, {threads} torch thread{'s' if threads > 1 else ''}": Centralised(
                config, threads
            )
            for threads in sorted({1, available_cores()})
        }
        contenders["in-process"] = InProcess(config)
        contenders["gRPC, 2 client processes"] = OverGrpc(config)
        for contender in contenders.values():
            stack.enter_context(closing(contender))
            contender.window(0.0)  # warm
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(repetitions):
            for name, contender in contenders.items():
                found[name].append(contender.window(seconds))
        return found


def add_rows(table: Table, label: str, found: Mapping[str, Sequence[float]]) -> None:
    """Add one row for each contender. Ratios are to the plain loop with the higher median."""
    plain = [name for name in found if name.startswith(PLAIN)]
    best = found[max(plain, key=lambda name: statistics.median(found[name]))]
    for name, rates in found.items():
        ratios = [rate / other for rate, other in zip(rates, best, strict=True)]
        table.add_row(
            label,
            name,
            f"{statistics.median(rates):.0f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        )


def exchange_table(cuts: Mapping[str, Tensor], *, quick: bool, flower: bool) -> Table:
    """Measure one exchange of each model's smashed data."""
    table = Table("model", "float32 bytes each way", "gRPC channel, ms", box=MARKDOWN)
    if flower:
        table.add_column("Flower messages, ms")
    for name, smashed in cuts.items():
        cells = [_milliseconds(over_grpc(smashed, 20 if quick else 300))]
        if flower:
            cells.append(_milliseconds(by_flower(smashed, 20)))
        table.add_row(name, f"{smashed.nbytes:,}", *cells)
    return table


def _milliseconds(seconds: Sequence[float]) -> str:
    ms = [1000 * value for value in seconds]
    return f"{statistics.median(ms):.2f} ({min(ms):.2f}-{max(ms):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each window")
    parser.add_argument("--cut-layer", type=int, default=1, help="stages on the client")
    parser.add_argument("--flower", action="store_true", help="also time Flower's messages")
    parser.add_argument("--quick", action="store_true", help="only check that it works")
    arguments = parser.parse_args()
    for name in ("flwr", "fedsplit"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if arguments.quick:
        arguments.repetitions, arguments.seconds = 1, 0.0
    repetitions, seconds = arguments.repetitions, arguments.seconds
    table = Table("model", "contender", "samples/s", "of the plain loop", box=MARKDOWN)
    cuts: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes(Path(folder))[: 1 if arguments.quick else None]:
            found = measure(size, arguments.cut_layer, repetitions, seconds)
            add_rows(table, size.name, found)
            cuts[size.name] = size.smashed(arguments.cut_layer)
    _console.print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, cut-layer {arguments.cut_layer}, "
        f"median (min-max) of {repetitions} repetitions"
    )
    _console.print(table)
    _console.print(exchange_table(cuts, quick=arguments.quick, flower=arguments.flower))


if __name__ == "__main__":
    main()
