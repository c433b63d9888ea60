"""Two hundred participants of one round, under the strategies that need most memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.preloaded import server

ROOT = Path(__file__).parents[2]
MANY = """
import json, sys
from benchmarks.participants import peak_bytes
from fedsplit import simulate
keys = {"num-clients": 200, "num-server-rounds": 1, "batch-size": 16, "data.max-test-samples": 20}
keys |= {"data.max-train-samples": 3600}  # 16 to train with: one full batch
keys |= {"channel.join-timeout": 600.0, "fraction-evaluate": 0.05}  # a busy machine is slow
found = {}
for name in ["sflv1", "full", "parallel"]:
    result = simulate(keys, strategy=name, output_dir=sys.argv[1])
    found[name] = [peak_bytes(), result.rounds[0]["num_participants"]]
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_participants_fit_into_two_gigabytes(tmp_path: Path) -> None:
    """Copies of the server part, of the whole model, and all smashed data of a step together.

    The other strategies hold no more; the script of the benchmark measures them too. These follow
    each other in one process, which loads the images once: what is seen of one is the peak of it
    and those before it. Break it: compute `parallel`'s steps in one piece.
    """
    done = server().run(["-c", MANY, str(tmp_path)], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for strategy, (peak_bytes, participants) in json.loads(done.stdout.splitlines()[-1]).items():
        assert participants == 200
        assert peak_bytes < 2e9, strategy
    assert len(re.findall(r"samples/s, \d+ ms per client-round", done.stderr + done.stdout)) == 3
