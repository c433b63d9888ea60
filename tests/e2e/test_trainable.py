"""Adapters in bfloat16 around a saved checkpoint: the same under Flower as in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit import simulate
from fedsplit.models import save_model
from tests.e2e.flower import Flower
from tests.e2e.runs import APP_DIR, RunFiles, assert_same_weights
from tests.models.families import zoo

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

KEYS: dict[str, str | int | float | bool] = {
    "num-server-rounds": 2,
    "batch-size": 8,
    "optimizer": "sgd",
    "data.max-train-samples": 40,
    "data.max-test-samples": 20,
    "split.trainable": "lora",
    "split.topology": "u-shaped",
    "split.cut-layer": 2,
    "model.dtype": "bfloat16",
}


def test_adapters_end_with_the_same_bits_and_bytes_in_both_engines(
    flower: Flower, tmp_path: Path
) -> None:
    """Break it: let clients make their frozen weights with another seed."""
    model = zoo.make("dinov2")
    save_model(model, zoo.images_of(model), tmp_path / "saved")
    keys = KEYS | {"model.name": str(tmp_path / "saved"), "output-dir": str(tmp_path)}
    named = {"run-name": "there"}
    run = flower.run(APP_DIR, federation="num-supernodes=2", run_config=keys | named)
    assert run.completed, run.output
    here = simulate(keys, num_clients=2, run_name="here")
    one, other = RunFiles.read(here.run_dir), RunFiles.read(tmp_path / "there")
    assert_same_weights(one.weights, other.weights)
    assert one.num_bytes == other.num_bytes
    assert one.summary["failed_clients"] == other.summary["failed_clients"] == 0
