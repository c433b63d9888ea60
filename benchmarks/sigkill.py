"""Kills runs under Flower with SIGKILL at 20 drawn moments, and resumes them.

Each must end with the weights, rows and bytes of the run that nobody interrupts, in-process.

    uv run python -m benchmarks.sigkill
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedsplit import simulate
from tests.conftest import TINY
from tests.dying import MOMENTS
from tests.e2e.flower import CONNECTION, ONE_ACTOR, Flower, fedsplit_run, program
from tests.e2e.processes import processes_of
from tests.e2e.runs import APP_DIR, RunFiles, other_app
from tests.test_continuation import RUNS

ENGINE = "flwr-simulation"
AGGREGATED = [name for name in RUNS if name.startswith(("full", "sflv1", "sflv2"))]
IN_SERVER_STEPS = [name for name in RUNS if name.startswith(("sequential", "sflv", "parallel"))]
POSSIBLE = {"in aggregation": AGGREGATED, "in a step": IN_SERVER_STEPS}
"""Moments that only these runs have in the ServerApp's process."""
BY_ENGINE = {"engine", "run_directory", "resent_bytes"}


def drawn(number: int) -> list[tuple[str, str, int]]:
    """Return so many runs, each with a moment and how often it passes before the kill."""
    chosen = random.Random(12)
    moments = [moment for moment in MOMENTS if moment != "in evaluation by clients"]
    names = [name for name in RUNS if name != "centralized"]  # has no clients to wait for
    pairs = []
    for place in range(number):
        moment, name = moments[place % len(moments)], names[place % len(names)]
        possible = POSSIBLE.get(moment, names)
        if name not in possible:
            name = possible[place % len(possible)]
        earliest = MOMENTS[moment][2] // 2 if moment == "while clients are waited for" else 1
        pairs.append((name, moment, chosen.randint(earliest, MOMENTS[moment][2])))
    return pairs


def kill_and_resume(
    flower: Flower, app: Path, keys: dict[str, object], moment: str, count: int, folder: Path
) -> tuple[int, float]:
    """Return how many rounds were whole when the run died, and how long the rest took."""
    config = folder / "config.toml"
    directory = folder / "there"
    written = {**keys, "output-dir": str(folder), "run-name": "there"}
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in written.items()))
    (flower.home / "dying.json").write_text(json.dumps({"moment": moment, "count": count}))
    at_once = "client-resources-num-cpus=1 init-args-num-cpus=4"
    actors = at_once if keys["strategy"] in ("sflv2", "parallel") else ONE_ACTOR
    federation = f"num-supernodes={keys['num-clients']} {actors}"
    command = [program("flwr"), "run", str(app), CONNECTION, "--run-config", str(config)]
    began = flower.call([*command, "--federation-config", federation], timeout_seconds=60)
    assert "Successfully started" in began.stdout, began.stdout
    _wait_until_it_is(True, flower)
    _wait_until_it_is(False, flower)
    assert directory.is_dir(), flower.ended(began)
    assert not (directory / "summary.json").exists(), "the run has not died"
    checkpoints = sorted((directory / "checkpoints").glob("round-*"))
    started = time.monotonic()
    done = flower.call(
        fedsplit_run("--resume", str(directory)),
        timeout_seconds=300,
    )
    assert done.returncode == 0, done.stdout + flower.log.read_text()[-5000:]
    return len(checkpoints), time.monotonic() - started


def _wait_until_it_is(there: bool, flower: Flower) -> None:
    deadline = time.monotonic() + 200
    while bool(processes_of(flower.home, ENGINE)) is not there:
        assert time.monotonic() < deadline, flower.log.read_text()[-3000:]
        time.sleep(0.1)


def differences(one: RunFiles, other: RunFiles) -> list[str]:
    """Return the names of all that differs, but for times and what tells the engines apart."""
    found = [name for name in one.weights if not one.weights[name].equal(other.weights[name])]
    if len(one.rounds) != len(other.rounds):
        found.append("the number of rounds")
    for here, there in [*zip(one.rounds, other.rounds, strict=False), (one.summary, other.summary)]:
        keys = [key for key in here if "second" not in key and key not in BY_ENGINE]
        found += [key for key in keys if here[key] != there[key]]
    return found


def main() -> None:
    """Kill, resume, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--from", dest="first", type=int, default=0, help="leave the first out")
    asked = parser.parse_args()
    table = Table("run", "dies", "call", "whole rounds", "resumed, s", "differs")
    with tempfile.TemporaryDirectory() as folder, Flower() as flower:
        flower.env["PYTHONPATH"] = str(APP_DIR)
        flower.need_worker()
        app = other_app(APP_DIR / "tests/e2e/dying", Path(folder, "app"), server="dying.app:app")
        for place, (name, moment, count) in enumerate(drawn(asked.kills)[asked.first :]):
            keys = {**TINY, "num-server-rounds": 3, **RUNS[name]}
            here, there = Path(folder, f"here-{place}"), Path(folder, f"there-{place}")
            there.mkdir()
            unbroken = simulate({**keys, "output-dir": str(here)})
            rounds, seconds = kill_and_resume(flower, app, keys, moment, count, there)
            found = differences(RunFiles.read(unbroken.run_dir), RunFiles.read(there / "there"))
            row = [name, moment, str(count), str(rounds), f"{seconds:.1f}"]
            Console().print(*row, found or "nothing", sep=" | ")
            table.add_row(*row, ", ".join(found) or "nothing")
            shutil.rmtree(there)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
