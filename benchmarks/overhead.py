"""The time overhead of splitting: an in-process run against a plain centralised loop.

Both train vit-nano on the same number of samples with the same batch size and optimizer. They take
turns in one process, so that a change of the machine's speed affects both. The plain loop is what
one would write without fedsplit: the whole transformers model, images in memory, no evaluation, and
the number of torch threads that is fastest on this machine.

    uv run python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from fedsplit import Config, simulate
from fedsplit.data.loader import Images, batches
from fedsplit.data.shards import load_shard
from fedsplit.models.loading import input_spec, load_model
from fedsplit.seeding import generator, seeded_init
from fedsplit.split.training import Training
from fedsplit.threads import available_cores, torch_threads


def plain_loop(config: Config, images: Images, num_epochs: int, threads: int) -> float:
    """Train the whole model on pooled images, and return the wall seconds."""
    with seeded_init(config.seed, "model"):
        model = load_model(config.model.name, pretrained=False, num_labels=10).train()
    optimizer = Training.of_clients(config).make_optimizer(model.named_parameters())
    order = generator(config.seed, "plain")
    with torch_threads(threads):
        started = time.perf_counter()
        for _ in range(num_epochs):
            for indices in batches(len(images), config.batch_size, generator=order):
                pixels, labels = images.batch(indices)
                optimizer.zero_grad()
                loss = cross_entropy(model(pixel_values=pixels).logits, labels)
                torch.autograd.backward(loss)
                optimizer.step()
        return time.perf_counter() - started


def split_run(config: Config) -> float:
    """Run the config in this process; return the wall seconds with evaluation and files."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        simulate(config, output_dir=folder)
        return time.perf_counter() - started


def main() -> None:
    """Measure both in turn, and print every pair and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=10)
    arguments = parser.parse_args()
    config = Config.load(
        {
            "num-clients": arguments.clients,
            "num-server-rounds": arguments.rounds,
            "console": "quiet",
        }
    )
    # One client with the training images of all clients.
    pooled = load_shard(config, 0, 1, input_spec(config.model.name)).train
    split_run(Config.load(config, {"num-server-rounds": 1}))  # warm: imports, caches
    choices = [1, available_cores()]
    warm = {threads: plain_loop(config, pooled, 1, threads) for threads in choices}
    threads = min(warm, key=lambda count: warm[count])

    title = f"{arguments.clients} clients x {arguments.rounds} rounds, {len(pooled)} images a round"
    table = Table("pair", "plain loop, s", "in-process run, s", "ratio", title=title)
    ratios = []
    for pair in range(1, arguments.pairs + 1):
        plain = plain_loop(config, pooled, arguments.rounds, threads)
        split = split_run(config)
        ratios.append(split / plain)
        table.add_row(str(pair), f"{plain:.2f}", f"{split:.2f}", f"{ratios[-1]:.2f}")
    console = Console(width=100)
    console.print(table)
    console.print(
        f"median ratio {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max "
        f"{max(ratios):.2f}); {os.cpu_count()} cores, plain loop with {threads} torch threads, "
        f"torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
