r"""What a run on CUDA must hold: each strategy beside the same run on the CPU.

For each strategy and topology: whether two runs on CUDA give the same bits, how far their weights
are from those of the CPU, whether all bytes are the same, and whether a run that continues from a
checkpoint ends with the bits of an unbroken one.

    uv run python -m benchmarks.cuda
    uv run python -m benchmarks.cuda --model torchvision:vit_b_16 --images 200 --autocast bfloat16

Exits with 1 if bytes differ, or a continued run ends elsewhere.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from fedsplit import Result, simulate

STRATEGIES = ("sflv1", "sflv2", "sflv3", "parallel", "sequential", "full", "centralized")
UNSPLIT = ("full", "centralized")


@dataclass(frozen=True)
class Ended:
    """What a run ended with."""

    weights: Mapping[str, Tensor]
    numbers: list[dict[str, object]]
    accuracy: float
    seconds: float

    @classmethod
    def of(cls, result: Result, seconds: float) -> Ended:
        """Read a finished run."""
        files = sorted(Path(result.run_dir, "model").glob("*.safetensors"))
        weights = {f"{f.stem}.{k}": t for f in files for k, t in load_file(f).items()}
        numbers = [
            {key: value for key, value in row.items() if key.endswith("_bytes")}
            for row in result.rounds
        ]
        return cls(weights, numbers, float(result.rounds[-1]["test_accuracy"]), seconds)

    def equals(self, other: Ended) -> bool:
        """Whether all weights have the same bits."""
        return self.weights.keys() == other.weights.keys() and all(
            torch.equal(tensor, other.weights[name]) for name, tensor in self.weights.items()
        )

    def distance(self, other: Ended) -> float:
        """Return the norm of the weights' difference, as a part of the other weights' norm."""
        pairs = [(self.weights[n].double(), t.double()) for n, t in other.weights.items()]
        apart = sum(float((a - b).square().sum()) for a, b in pairs)
        whole = sum(float(b.square().sum()) for _, b in pairs)
        return float((apart / whole) ** 0.5)


def ended(keys: Mapping[str, object], device: str, *, broken: bool = False) -> Ended:
    """Run on a device; a broken run stops after half of its rounds and is continued."""
    with tempfile.TemporaryDirectory() as folder:
        given = {**keys, "device": device, "output-dir": folder, "run-name": "run"}
        started = time.perf_counter()
        if broken:
            rounds = int(str(keys["num-server-rounds"]))
            first = simulate({**given, "num-server-rounds": rounds // 2})
            result = simulate(resume=first.run_dir, num_server_rounds=rounds)
        else:
            result = simulate(given)
        return Ended.of(result, time.perf_counter() - started)


def main() -> None:
    """Run, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit-nano")
    parser.add_argument("--images", type=int, default=1000, help="training images; 0 = all")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--autocast", default="none", help="model.autocast")
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    columns = ("strategy", "topology", "accuracy", "CPU", "distance", "repeats", "resumes")
    table = Table(*columns, "bytes", "s", "CPU, s", title=f"{asked.model}, {asked.device}")
    good = True
    for strategy in STRATEGIES:
        for topology in ("vanilla",) if strategy in UNSPLIT else ("vanilla", "u-shaped"):
            keys: dict[str, object] = {
                "strategy": strategy,
                "split.topology": topology,
                "model.name": asked.model,
                "model.pretrained": False,
                "model.autocast": asked.autocast,
                "num-clients": 10,
                "num-server-rounds": asked.rounds,
                "batch-size": 16,
                "data.max-train-samples": asked.images,
                "data.max-test-samples": 500,
                "checkpoint-every": 1,
            }
            cpu = ended({**keys, "model.autocast": "none"}, "cpu")
            one, two = ended(keys, asked.device), ended(keys, asked.device)
            resumed = ended(keys, asked.device, broken=True)
            same_bytes = one.numbers == cpu.numbers
            good = good and same_bytes and (resumed.equals(one) or not two.equals(one))
            table.add_row(
                *(strategy, topology, f"{one.accuracy:.3f}", f"{cpu.accuracy:.3f}"),
                f"{one.distance(cpu):.1e}",
                *("yes" if each else "no" for each in (two.equals(one), resumed.equals(one))),
                *("same" if same_bytes else "DIFFER", f"{one.seconds:.1f}", f"{cpu.seconds:.1f}"),
            )
    Console().print(table)
    sys.exit(not good)


if __name__ == "__main__":
    main()
