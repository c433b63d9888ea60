"""The benchmark runs; what it measures is looked at by people."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks.steady import Step, throughput
from tests.preloaded import server

ROOT = Path(__file__).parents[2]


def test_throughput_counts_the_steps_while_all_streams_work() -> None:
    first = [Step(1.0, 8), Step(2.0, 8), Step(3.0, 8), Step(4.0, 8)]
    second = [Step(1.5, 4), Step(2.5, 4), Step(3.5, 4)]
    # From 1.5 to 3.5: two steps of each.
    assert throughput([first, second]) == (8 + 8 + 4 + 4) / 2.0
    assert throughput([first]) == 8.0


@pytest.mark.slow
def test_the_script_runs_and_its_numbers_are_positive() -> None:
    done = server().run(["-m", "benchmarks.throughput", "--quick"], cwd=ROOT, timeout=290)
    assert done.returncode == 0, done.stderr
    assert torch.__version__ in done.stdout
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")]
    rates = [float(row[2]) for row in rows if re.fullmatch(r" *\d+ *", row[2])]
    assert len(rates) >= 3
    assert min(rates) > 0
    exchanges = [float(row[2].split()[0]) for row in rows if re.match(r" *[\d.]+ \(", row[2])]
    assert len(exchanges) == 1
    assert min(exchanges) > 0
