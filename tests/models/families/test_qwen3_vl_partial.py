"""A client of Qwen3-VL 2B reads and holds its bottom only, measured in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models.families.test_qwen3_vl_full_size import tower_2b
from tests.preloaded import server

ROOT = Path(__file__).parents[3]
LOAD = """
import json, sys
from benchmarks.participants import peak_bytes
from fedsplit.models import load_split_model, resolve
from fedsplit.models.stored import Checkpoint

read = 0
file_of = Checkpoint.file_of

class Counted:
    def __init__(self, file):
        self.file = file
    def __getattr__(self, name):
        return getattr(self.file, name)
    def get_tensor(self, key):
        global read
        tensor = self.file.get_tensor(key)
        read += tensor.nbytes
        return tensor

Checkpoint.file_of = lambda checkpoint, key: Counted(file_of(checkpoint, key))
resolve(sys.argv[1]).skeleton()  # libraries and structure are there before the weights
before = peak_bytes()
bottom = load_split_model(sys.argv[1], [1], parts=json.loads(sys.argv[2])).bottom
held = sum(tensor.nbytes for tensor in bottom.state_dict().values())
print(json.dumps({"read": read, "held": held, "grown": peak_bytes() - before}))
"""


def _loaded(directory: Path, parts: list[str]) -> dict[str, int]:
    done = server().run(["-c", LOAD, str(directory), json.dumps(parts)], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_its_bottom_is_read_and_held_alone(tmp_path: Path) -> None:
    """Break it: read every tensor, and let go of those that are not wanted.

    The peak is of resident memory, mapped pages of the files too, so that nothing is read unseen.
    """
    model = tower_2b()
    whole_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    model.save_pretrained(tmp_path, max_shard_size="200MB")
    del model
    assert len(list(tmp_path.glob("*.safetensors"))) >= 6

    bottom = _loaded(tmp_path, ["bottom"])
    assert bottom["held"] == bottom["read"] < 0.02 * whole_bytes
    assert bottom["grown"] < 0.1 * whole_bytes

    whole = _loaded(tmp_path, ["bottom", "trunk", "top"])
    assert whole["read"] == whole_bytes
    assert whole["grown"] > 0.5 * whole_bytes
