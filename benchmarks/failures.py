"""Kills each kind of process in each kind of round, and tells what is lost, and in what time.

    uv run python -m benchmarks.failures [--only superlink]

A client kills the process at its second batch of round 2; rounds 1 and 3 show the time without.
A run that ends with that is resumed. The weights are compared with those of a run in one process
that nobody disturbs.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedsplit import simulate
from tests.e2e.flower import Flower, FlowerRun, Scalar
from tests.e2e.kill import Kill
from tests.e2e.runs import APP_DIR, RunFiles, other_app

CLIENTS = 3
ROUNDS = 3
KEYS: dict[str, Scalar] = {
    "num-server-rounds": ROUNDS,
    "num-clients": CLIENTS,
    "batch-size": 8,
    "data.max-train-samples": 180,
    "data.max-test-samples": 50,
}
KINDS = {
    "sflv1": ("sflv1", "train"),
    "sflv2": ("sflv2", "train"),
    "parallel": ("parallel", "train"),
    "full": ("full", "train"),
    "evaluation": ("sflv1", "evaluate"),
}
"""Kind of round -> strategy and phase."""
CLIENT_APP = "killing.app:app"
SIMULATION = {"actor": "", "simulation": "flwr-simulation"}
DEPLOYMENT = {
    "clientapp": "",
    "supernode": "partition-id=1 ",
    "serverapp": "flwr-serverapp",
    "superlink": "flower-superlink",
}
TOLD = re.compile(r"WARNING|ERROR|│|fedsplit:|Error|asked again|left out|resume", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """A process that dies, and the kind of round in which it does."""

    process: str
    kind: str
    number: int = signal.SIGKILL

    @property
    def deployed(self) -> bool:
        """Whether every client is a program of its own."""
        return self.process in DEPLOYMENT

    @property
    def keys(self) -> dict[str, Scalar]:
        """The run's config."""
        strategy, phase = KINDS[self.kind]
        fraction = 1.0 if phase == "evaluate" else 0.0
        return KEYS | {"strategy": strategy, "fraction-evaluate": fraction}

    @property
    def kill(self) -> Kill:
        """The process that dies, and when."""
        process = (SIMULATION | DEPLOYMENT)[self.process]
        return Kill(process, KINDS[self.kind][1], number=self.number)

    def start(self, flower: Flower) -> None:
        """Start what runs wait for."""
        flower.need_worker()
        for partition in range(CLIENTS if self.deployed else 0):
            flower.add_supernode(f"partition-id={partition} num-partitions={CLIENTS}")

    def run(
        self, flower: Flower, app: Path, keys: Mapping[str, Scalar] | Path
    ) -> tuple[FlowerRun, float]:
        """Return what came of a run, and its time in seconds."""
        actors = 3 if self.kind in ("sflv2", "parallel") else 1
        federation = f"num-supernodes={CLIENTS} client-resources-num-cpus=1"
        federation += f" init-args-num-cpus={actors}"
        started = time.monotonic()
        run = flower.submit(
            app,
            federation="" if self.deployed else federation,
            run_config=keys,
            timeout_seconds=500,
        )
        return run, time.monotonic() - started


def _show(line: str) -> None:
    """Show a line at once, and not as markup."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def show_told(run: FlowerRun) -> None:
    """Print the lines at which a person would look."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", run.output)
    for line in [line for line in plain.splitlines() if TOLD.search(line)][-12:]:
        _show(f"   | {line[:230]}")


def report(case: Case) -> None:
    """Make a run in which a process dies, resume it if it ends with that, and print both."""
    _show(f"{case.process} in {case.kind}")
    with tempfile.TemporaryDirectory() as folder, Flower(simulation=not case.deployed) as flower:
        there = Path(folder, "there")
        keys = case.keys | {"output-dir": folder, "run-name": there.name}
        app = other_app(APP_DIR / "tests/e2e/killing", there.with_name("app"), client=CLIENT_APP)
        flower.env["PYTHONPATH"] = str(APP_DIR)
        case.start(flower)
        case.kill.write(flower.home)
        run, seconds = case.run(flower, app, keys)
        show_told(run)
        _show(f"  {run.status or 'no status'} after {seconds:.0f} s")
        if not (there / "summary.json").exists():
            flower.restart()
            case.start(flower)
            run, seconds = case.run(flower, APP_DIR, there / "resume.toml")
            _show(f"  resumed: {run.status} after {seconds:.0f} s")
        here = RunFiles.read(simulate({**case.keys, "output-dir": folder}).run_dir)
        files = RunFiles.read(there)
        same = all(files.weights[key].equal(value) for key, value in here.weights.items())
        times = [round(row["round_seconds"], 1) for row in files.rounds]
        failed = [row["failed_clients"] for row in files.rounds]
        _show(f"  rounds {times} s; failed {failed}; same weights: {same}")


def main() -> None:
    """Kill every process in every kind of round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*SIMULATION, *DEPLOYMENT])
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--stop", action="store_true", help="SIGSTOP: a process that sleeps")
    asked = parser.parse_args()
    number = signal.SIGSTOP if asked.stop else signal.SIGKILL
    for name in [asked.only] if asked.only else [*SIMULATION, *DEPLOYMENT]:
        for kind in [asked.kind] if asked.kind else KINDS:
            report(Case(name, kind, number))


if __name__ == "__main__":
    main()
