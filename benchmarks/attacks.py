# ruff: noqa: ANN401, T201 - attacks replace methods of any signature
"""One hostile client of ten, against every strategy: final accuracies, and what was refused.

    uv run python -m benchmarks.attacks [--strategy sflv1] [--before DIR]

Client 0 is hostile in every round. `--before` names a checkout of an older version (made with `git
worktree add`), on which the same attacks are run for comparison. Runs are small: the table shows
which attacks cost how much, not what a strategy can reach.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flwr.app import ArrayRecord
from torch import Tensor

from fedsplit import client_app, experiment, simulate
from fedsplit.arrays import to_record, to_state
from fedsplit.boundary import State, each
from fedsplit.config import STRATEGY_NAMES
from fedsplit.errors import FedSplitError
from fedsplit.messages import ARRAYS
from fedsplit.split.client_rules import SplitClient

# Only what versions before the checks have too: this file is run on them.
_CLIENT: Any = vars(client_app)["_Client"]
HOSTILE = 0
KEYS: Mapping[str, object] = {
    "num-clients": 10,
    "num-server-rounds": 3,
    "batch-size": 8,
    "optimizer": "adam",
    "learning-rate": 2e-3,
    "checkpoint-every": 0,
    "fraction-evaluate": 0.0,
    "data.validation-fraction": 0.0,
    "data.partitioner": "iid",
    "data.max-train-samples": 600,
    "data.max-test-samples": 200,
    "console": "quiet",
}
"""Settings of every run, besides strategy, attack and aggregator."""
AVERAGED: Mapping[str, object] = {"local-epochs": 2, "num-server-rounds": 4}
"""What `full`, `sflv1` and `sflv3` have besides: they average whole models, and learn later."""
ROBUST: Mapping[str, Mapping[str, object]] = {
    "FedMedian": {"aggregation.name": "FedMedian"},
    "Krum": {"aggregation.name": "Krum", "aggregation.options": "num-malicious-nodes = 1"},
}
SPLIT = tuple(name for name in STRATEGY_NAMES if name not in ("full", "centralized"))
TRAINED = ("full", *SPLIT)


def _batches(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], times: int = 1) -> Any:
    """Return an attack that trains on other batches, or more often on them."""
    honest = _CLIENT.train_batches

    def batches(self: Any) -> Iterator[tuple[Tensor, Tensor]]:
        hostile = self.partition_id == HOSTILE
        for _ in range(times if hostile else 1):
            for images, labels in honest(self):
                yield change(images, labels) if hostile else (images, labels)

    return patch.object(_CLIENT, "train_batches", batches)


def _activations(factor: float) -> Any:
    """Return an attack that sends scaled activations."""
    honest = SplitClient.smashed

    def smashed(self: Any, images: Tensor) -> State:
        state = honest(self, images)
        return each(state, lambda t: t * factor) if self.side.draw.args[-1] == HOSTILE else state

    return patch.object(SplitClient, "smashed", smashed)


def _reply(change: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Any:
    """Return an attack that replies with another result or other weights."""
    honest = _CLIENT.reply

    def reply(self: Any, result: Any, rule: Any = None, arrays: Any = None) -> Any:
        if self.partition_id == HOSTILE:
            result, arrays = change(self, result, arrays)
        return honest(self, result, rule, arrays)

    return patch.object(_CLIENT, "reply", reply)


def _scaled(factor: float) -> Any:
    """Return an attack that scales the weights of its reply."""

    def change(client: Any, result: Any, arrays: Any) -> tuple[Any, Any]:
        scaled = {
            name: tensor * factor for name, tensor in to_state(arrays or ArrayRecord()).items()
        }
        return result, to_record(scaled) if arrays else arrays

    return _reply(change)


def _moved(factor: float) -> Any:
    """Return an attack that scales how far its weights have moved."""

    def change(client: Any, result: Any, arrays: Any) -> tuple[Any, Any]:
        before = to_state(client._message.content.array_records.get(ARRAYS) or ArrayRecord())
        moved = {
            name: before[name] + (tensor - before[name]) * factor if name in before else tensor
            for name, tensor in to_state(arrays or ArrayRecord()).items()
        }
        return result, to_record(moved) if arrays else arrays

    return _reply(change)


def _told(**values: float) -> Any:
    """Return an attack that lies about its result."""
    return _reply(lambda client, result, arrays: (result._replace(**values), arrays))


ATTACKS: Mapping[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "none": (lambda: patch.object(_CLIENT, "hostile", None, create=True), STRATEGY_NAMES),
    "label flips": (lambda: _batches(lambda images, labels: (images, 9 - labels)), TRAINED),
    "10 times the steps": (lambda: _batches(lambda *batch: batch, 10), TRAINED),
    "activations x 9": (lambda: _activations(9.0), SPLIT),
    "activations x 1e3": (lambda: _activations(1e3), SPLIT),
    "activations x 1e30": (lambda: _activations(1e30), SPLIT),
    "weights x 100": (lambda: _scaled(100.0), TRAINED),
    "update x -9": (lambda: _moved(-9.0), tuple(n for n in TRAINED if n != "sflv3")),
    "1e15 examples claimed": (lambda: _told(num_examples=10**15), TRAINED),
    "loss 0, all correct claimed": (lambda: _told(loss=0.0, accuracy=1.0), TRAINED),
}
"""Attack -> what makes it, and the strategies where it means something."""
WITHIN_BOUNDS = ("none", "label flips", "activations x 9", "update x -9")
"""What no check refuses: these are for robust aggregators."""


def one(strategy: str, attack: str, keys: Mapping[str, object]) -> str:
    """Run one attack; return the final accuracy, and what was refused."""
    settings = {**KEYS, **(AVERAGED if strategy in ("full", "sflv1", "sflv3") else {}), **keys}
    try:
        with tempfile.TemporaryDirectory() as folder, ATTACKS[attack][0]():
            result = simulate({**settings, "output-dir": folder, "strategy": strategy})
    except FedSplitError as error:
        return f"ended: {str(error).split('.')[0]}"
    told = f"{result.summary['final_accuracy']:.2f}"
    failed = [row["failed_clients"] for row in result.rounds]
    hostile = sum(HOSTILE in row for row in failed)
    honest = sum(any(client != HOSTILE for client in row) for row in failed)
    told += f", refused {hostile}/{len(failed)}" if hostile else ""
    return told + (f", others left out {honest}/{len(failed)}" if honest else "")


def cases(strategies: list[str], *, robust: bool) -> Iterator[tuple[str, str, str]]:
    """Yield strategy, attack and aggregator of every run of a version."""
    for strategy in strategies:
        for attack, (_, applies) in ATTACKS.items():
            if strategy not in applies:
                continue
            yield strategy, attack, "FedAvg"
            if robust and attack in WITHIN_BOUNDS and strategy not in ("sequential", "centralized"):
                yield from ((strategy, attack, name) for name in ROBUST)


def run_here(strategies: list[str], *, robust: bool) -> Iterator[tuple[str, str, str, str]]:
    """Run all attacks on the version that Python finds."""
    vars(experiment)["draw_or_warn"] = lambda path, plot: None
    for strategy, attack, aggregator in cases(strategies, robust=robust):
        outcome = one(strategy, attack, ROBUST.get(aggregator, {}))
        yield strategy, attack, aggregator, outcome


def run_there(folder: Path, strategies: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """Run the attacks without robust aggregators on an older version."""
    command = [sys.executable, "-P", __file__, "--lines", *strategies]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            strategy, attack, aggregator, outcome = json.loads(line)
            yield strategy, attack, aggregator, outcome
    if process.returncode:
        raise SystemExit(f"The attacks on {folder} ended with exit code {process.returncode}.")


def table(found: Mapping[tuple[str, str, str, str], str], strategies: list[str]) -> str:
    """Return the outcomes as a Markdown table."""
    columns = [("before", "FedAvg"), *(("now", name) for name in ("FedAvg", *ROBUST))]
    lines = ["| strategy | attack | before | now | FedMedian | Krum |", "|---|---|---|---|---|---|"]
    for strategy in strategies:
        for attack in ATTACKS:
            cells = [found.get((strategy, attack, name, when), "-") for when, name in columns]
            if set(cells) != {"-"}:
                lines.append(f"| `{strategy}` | {attack} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the attacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", action="append", choices=STRATEGY_NAMES)
    parser.add_argument("--before", type=Path, help="checkout of an older version")
    parser.add_argument("--lines", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.lines is not None:  # an older version: one line for each run
        for case in run_here(given.lines, robust=False):
            print(json.dumps(case), flush=True)
        return
    strategies: list[str] = given.strategy or list(STRATEGY_NAMES)
    found: dict[tuple[str, str, str, str], str] = {}
    began = time.perf_counter()
    sides = [("now", run_here(strategies, robust=True))]
    if given.before:
        sides.append(("before", run_there(given.before.resolve(), strategies)))
    for when, outcomes in sides:
        for strategy, attack, aggregator, outcome in outcomes:
            found[strategy, attack, aggregator, when] = outcome
            line = f"{time.perf_counter() - began:5.0f} s  {when:6}  {strategy}  {attack}"
            print(f"{line}  {aggregator}: {outcome}", file=sys.stderr, flush=True)
    print(table(found, strategies))


if __name__ == "__main__":
    main()
