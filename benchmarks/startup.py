"""Seconds from a command to its first training step, beside what no run can do without.

They are `import torch`, one training step of a ViT of transformers, and Ray's own start.

    uv run python -m benchmarks.startup [--app DIR] [--program FEDSPLIT] [--repetitions 3]

The first step is when a run says its accuracy before training. Commands take turns, so that a
change of the machine's speed affects all. Byte code is warm after the first repetition, which is
not counted. Under Flower, `found` has a SuperLink that runs, and `started` has none.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

RAY = """
import ray
ray.init(num_cpus=2, log_to_driver=False)
@ray.remote(num_cpus=1)
class Actor:
    def ping(self): return 1
actors = [Actor.remote() for _ in range(2)]
ray.get([actor.ping.remote() for actor in actors])
"""
STEP = """
import torch
from transformers import ViTConfig, ViTModel
size = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
model = ViTModel(ViTConfig(image_size=8, patch_size=4, **size))
optimizer = torch.optim.SGD(model.parameters())
model(torch.ones(1, 3, 8, 8)).last_hidden_state.sum().backward()
optimizer.step()
"""
SMALL = ["--num-clients", "10", "--set", "num-server-rounds=1"]


def seconds_of(*command: str) -> float:
    """Return how long a command takes."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def seconds_to_first_step(program: str, app: Path, env: dict[str, str], *arguments: str) -> float:
    """Return the time until a run has scored its initial model; then let it end."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with subprocess.Popen(
            [program, "run", ".", *SMALL, "--output-dir", folder, *arguments],
            cwd=app,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines: list[str] = []
            found = None
            for line in process.stdout:
                lines.append(line)
                if found is None and "Before training" in line:
                    found = time.perf_counter() - begin
        if found is None:
            raise SystemExit("".join(lines))
    return found


def main() -> None:
    """Measure all in turn, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--app", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--program", default=str(Path(sys.executable).with_name("fedsplit")))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--no-stop", action="store_true", help="the program has no `stop`")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as home:
        env = {**os.environ, "FLWR_HOME": home}
        python = str(Path(asked.program).with_name("python"))

        def stop() -> None:
            if not asked.no_stop:
                subprocess.run(
                    [asked.program, "stop"],
                    cwd=asked.app,
                    env=env,
                    check=True,
                    stdout=subprocess.DEVNULL,
                )

        def started() -> float:
            stop()
            return seconds_to_first_step(asked.program, asked.app, env)

        measures: dict[str, Callable[[], float]] = {
            "import torch": lambda: seconds_of(python, "-c", "import torch"),
            "one step of transformers' ViT": lambda: seconds_of(python, "-c", STEP),
            "in-process": lambda: seconds_to_first_step(
                asked.program, asked.app, env, "--engine", "inprocess"
            ),
            "Ray's own start, two actors": lambda: seconds_of(python, "-c", RAY),
            "Flower, SuperLink started": started,
            "Flower, SuperLink found": lambda: seconds_to_first_step(asked.program, asked.app, env),
        }
        taken: dict[str, list[float]] = {name: [] for name in measures}
        try:
            for _ in range(asked.repetitions + 1):
                for name, measure in measures.items():
                    taken[name].append(measure())
        finally:
            stop()
    table = Table("", "first, s", "median of the others, s", "range, s")
    for name, (first, *others) in taken.items():
        spread = f"{min(others):.1f} to {max(others):.1f}"
        table.add_row(name, f"{first:.1f}", f"{statistics.median(others):.1f}", spread)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
