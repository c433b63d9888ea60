"""Runs of many short rounds: memory, threads, descriptors and temporary files over time.

uv run python -m benchmarks.soak --rounds 1000
uv run python -m benchmarks.soak --rounds 100 --engine grpc
uv run python -m benchmarks.soak --rounds 100 --engine flower
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from fedsplit import inprocess, simulate
from fedsplit.results.run_directory import RunDirectory
from fedsplit.serving import Engine, open_grpc
from tests.e2e.flower import CONNECTION, ONE_ACTOR, Flower, program
from tests.e2e.processes import processes_of
from tests.e2e.runs import APP_DIR

KEYS: dict[str, object] = {
    "num-clients": 4,
    "batch-size": 8,
    "client-optimizer": "kept",
    "max-concurrent-clients": 2,
    "data.max-train-samples": 80,
    "data.max-test-samples": 20,
    "data.min-partition-size": 10,
}
FLOWER_PROCESSES = {"engine": "flwr-simulation", "actor": "ray::ClientAppActor"}
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """What a process holds. Resident memory is in bytes."""

    memory: int
    threads: int
    descriptors: int


def held_by(pid: int | str) -> Sample:
    """Return what a process holds now."""
    process = Path("/proc", str(pid))
    pages = int((process / "statm").read_text().split()[1])
    threads, descriptors = (len(list((process / kind).iterdir())) for kind in ("task", "fd"))
    return Sample(_PAGE * pages, threads, descriptors)


def in_this_process(keys: dict[str, object], engine: Engine, note: Callable[..., None]) -> None:
    """Run every round here, and take a sample after each."""
    append = RunDirectory.append_round

    def append_and_note(directory: RunDirectory, row: dict[str, Any]) -> None:
        append(directory, row)
        note(row["round"], {"process": held_by("self")})

    inprocess.IN_PROCESS = engine
    RunDirectory.append_round = append_and_note  # type: ignore[method-assign,assignment]
    simulate(keys, verbose=False)


def under_flower(keys: dict[str, object], folder: str, note: Callable[..., None]) -> None:
    """Run every round under Flower's simulation, and take samples of its processes."""
    with Flower() as flower:
        flower.need_worker()
        config = Path(folder, "config.toml")
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
        federation = f"num-supernodes={keys['num-clients']} {ONE_ACTOR}"
        command = [program("flwr"), "run", str(APP_DIR), CONNECTION, "--run-config", str(config)]
        flower.call([*command, "--federation-config", federation], timeout_seconds=60)
        directory = Path(folder, "soak")
        seen, deadline = 0, time.monotonic() + 120
        while not (directory / "summary.json").exists():
            assert time.monotonic() < deadline, flower.log.read_text()[-3000:]
            rows = directory / "rounds.jsonl"
            rounds = rows.read_bytes().count(b"\n") if rows.exists() else 0
            if rounds > seen:
                seen, deadline = rounds, time.monotonic() + 120
                samples = {
                    name: held_by(min(pids))
                    for name, program_name in FLOWER_PROCESSES.items()
                    if (pids := processes_of(flower.home, program_name))
                }
                note(rounds, samples)
            time.sleep(0.2)


def main() -> None:
    """Run, and print what was held after every tenth of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--engine", choices=("inprocess", "grpc", "flower"), default="inprocess")
    parser.add_argument("--strategy", default="sflv2")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    columns = ("round", "process", "memory, MB", "threads", "descriptors", "temporary folders")
    table = Table(*columns, "seconds")
    started = time.monotonic()

    def note(server_round: int, samples: dict[str, Sample]) -> None:
        if server_round % max(1, asked.rounds // 10) and server_round != 1:
            return
        folders = len(list(Path(tempfile.gettempdir()).glob("fedsplit-*")))
        for name, sample in samples.items():
            memory, *held = sample
            cells = (server_round, name, f"{memory / 1e6:.0f}", *held, folders)
            table.add_row(*map(str, cells), f"{time.monotonic() - started:.0f}")

    with tempfile.TemporaryDirectory() as folder:
        keys = {**KEYS, "strategy": asked.strategy, "num-server-rounds": asked.rounds}
        keys |= {"output-dir": folder, "run-name": "soak"}
        if asked.engine == "flower":
            under_flower(keys, folder, note)
        else:
            over_grpc = Engine("inprocess", open_grpc)
            engine = over_grpc if asked.engine == "grpc" else inprocess.IN_PROCESS
            in_this_process(keys, engine, note)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
