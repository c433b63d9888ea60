"""How well each strategy learns: test accuracy on iid and uneven shards, over several seeds.

Runs every strategy in this process on fashion-mini with ten clients and prints a table of mean and
standard deviation of the accuracy after the last round.

    uv run python benchmarks/accuracy.py
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile

from rich.console import Console
from rich.progress import track
from rich.table import Table

from fedsplit import simulate
from strategies import STRATEGIES

SETTINGS: dict[str, object] = {"num-clients": 10, "batch-size": 16, "data.min-partition-size": 20}
PARTITIONS: dict[str, dict[str, object]] = {
    "iid": {"data.partitioner": "iid"},
    "dirichlet(0.1)": {"data.partitioner": "dirichlet", "data.alpha": 0.1},
}


def accuracy(strategy: str, partition: str, seed: int, rounds: int, epochs: int) -> float:
    """Return the test accuracy after the last round of one run."""
    keys = {**SETTINGS, **PARTITIONS[partition], "strategy": strategy, "seed": seed}
    keys |= {"num-server-rounds": rounds, "local-epochs": epochs, "fraction-evaluate": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        return float(simulate(keys, output_dir=folder).summary["final_accuracy"])


def main() -> None:
    """Run everything, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    runs = [
        (strategy, partition, seed)
        for strategy in arguments.strategies
        for partition in PARTITIONS
        for seed in arguments.seeds
    ]
    found: dict[tuple[str, str], list[float]] = {}
    for strategy, partition, seed in track(runs, console=Console(stderr=True)):
        value = accuracy(strategy, partition, seed, arguments.rounds, arguments.epochs)
        found.setdefault((strategy, partition), []).append(value)
    title = f"{arguments.rounds} rounds of {arguments.epochs} local epochs, seeds {arguments.seeds}"
    table = Table("strategy", *PARTITIONS, title=title)
    for strategy in arguments.strategies:
        table.add_row(strategy, *(_shown(found[strategy, partition]) for partition in PARTITIONS))
    Console(width=100).print(table)


def _shown(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


if __name__ == "__main__":
    main()
