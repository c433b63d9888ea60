"""The app under Flower's Deployment Engine: every SuperNode is a program, one with its own data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_images
from tests.e2e.flower import Flower
from tests.e2e.processes import processes_of
from tests.e2e.runs import APP_DIR, SMALL, RunFiles

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def deployment() -> Iterator[Flower]:
    with Flower(simulation=False) as started:
        yield started
    assert processes_of(started.home) == {}


def test_supernodes_train_a_round_over_the_channel(deployment: Flower, tmp_path: Path) -> None:
    images = load_images(DataConfig.model_validate({"max-train-samples": 120}))
    images.train.save_to_disk(str(tmp_path / "my images"))
    deployment.add_supernode("partition-id=0 num-partitions=2")
    deployment.add_supernode(
        f'partition-id=1 num-partitions=2 data-path="{tmp_path / "my images"}"'
    )
    # Each message starts a process that imports torch; one evaluation shows as much as two.
    config = SMALL | {"num-clients": 2, "fraction-evaluate": 0.5}
    config |= {"output-dir": str(tmp_path), "run-name": "deployed"}

    run = deployment.run(APP_DIR, federation="", run_config=config)

    assert run.completed, run.output
    files = RunFiles.read(tmp_path / "deployed")
    assert files.summary["engine"] == "flower"
    assert files.summary["num_clients"] == 2
    assert files.summary["partitioner"] == "iid; own images: client 1"
    assert files.summary["finished_rounds"] == 1
    # Half of 300, and all of its own 120; a tenth of each is kept for evaluation.
    assert [row["num_examples"] for row in files.rounds] == [135 + 108]
    assert [row["failed_clients"] for row in files.rounds] == [[]]
    assert files.rounds[0]["validation_accuracy"] is not None
    assert all(count > 0 for count in files.num_bytes.values())
