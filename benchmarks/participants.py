"""The memory and time of a round with many participants, by strategy.

Runs one round of every strategy on vit-nano and fashion-mini, each in its own process, and prints
a table of peak memory, milliseconds per client-round, and the seconds of the whole run with its
evaluations and files.

    uv run python benchmarks/participants.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from fedsplit import simulate

SETTINGS: dict[str, object] = {
    **{"console": "quiet", "num-server-rounds": 1, "batch-size": 16, "fraction-evaluate": 0.05},
    # A busy machine is slow, not broken.
    **{"channel.join-timeout": 3600.0, "channel.step-timeout": 3600.0},
}
SPLIT = ["sequential", "sflv1", "sflv2", "sflv3", "parallel"]
RUNS = [*((name, "vanilla") for name in ["full", *SPLIT]), *((name, "u-shaped") for name in SPLIT)]


def one_round(strategy: str, topology: str, participants: int) -> tuple[float, float, float]:
    """Make one run; return the peak of this process in GB, ms per client-round, and seconds."""
    keys = {**SETTINGS, "strategy": strategy, "split.topology": topology}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = simulate(keys, num_clients=participants, output_dir=folder)
    assert result.summary["failed_clients"] == 0
    seconds = time.perf_counter() - start
    return peak_bytes() / 1e9, 1000 * result.summary["seconds_per_client_round"], seconds


def peak_bytes() -> int:
    """Return the peak memory of this process, on Linux.

    It does not use `getrusage`, whose peak a process inherits from its parent.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    """Run all strategies, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=200)
    parser.add_argument("--strategies", nargs="+", default=["full", *SPLIT])
    arguments = parser.parse_args()
    runs = [run for run in RUNS if run[0] in arguments.strategies]
    table = Table("strategy", "topology", "peak, GB", "ms per client-round", "run, s")
    spawn = multiprocessing.get_context("spawn")
    shown = Console(stderr=True)
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for run in track(runs, console=shown):
            measured = processes.submit(one_round, *run, arguments.participants).result()
            peak, milliseconds, seconds = measured
            table.add_row(*run, f"{peak:.2f}", f"{milliseconds:.0f}", f"{seconds:.0f}")
            shown.print(*run, f"{peak:.2f} GB, {milliseconds:.0f} ms, {seconds:.0f} s")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
