"""What goes wrong under Flower: the run fails with one paragraph, or goes on without a client."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fedsplit import Config, client_app, simulate
from fedsplit.data.shards import load_shard
from fedsplit.models import save_model
from fedsplit.models.loading import input_spec
from tests.e2e.failing.failing.disk import broken_for
from tests.e2e.flower import ONE_ACTOR, Flower, fedsplit_run
from tests.e2e.runs import (
    APP_DIR,
    REFUSED_TEXT,
    SMALL,
    UNEVEN,
    RunFiles,
    assert_same_weights,
    other_app,
    paragraph_of,
    run_directory_of,
)
from tests.models.families import zoo

FAILING = Path(__file__).with_name("failing")

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


def test_a_client_that_fails_in_each_round_leaves_the_others_whole(
    flower: Flower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In sflv3, u-shaped: what clients keep goes through Flower's state; one process serves all.

    They train adapters in bfloat16 around a saved checkpoint. So this is also the run that shows
    sflv3, and adapters, to be the same in both engines. sflv1 with a client that fails is in
    tests/test_inprocess.py. Break it: let clients make their frozen weights with another seed.
    """
    model = zoo.make("dinov2")
    save_model(model, zoo.images_of(model), tmp_path / "saved")
    config = UNEVEN | {
        "strategy": "sflv3",
        "model.name": str(tmp_path / "saved"),
        "model.dtype": "bfloat16",
        "split.trainable": "lora",
        "split.topology": "u-shaped",
        "split.cut-layer": 2,
        "optimizer": "sgd",
        "client-optimizer": "kept",
        "num-clients": 3,
        "output-dir": str(tmp_path),
    }

    run = flower.run(
        other_app(FAILING, tmp_path / "app", client="failing.app:app"),
        federation=f"num-supernodes=3 {ONE_ACTOR}",
        run_config=config | {"run-name": "there"},
    )

    assert run.completed, run.output
    there = RunFiles.read(run_directory_of(run.output))
    assert there.summary["strategy"] == "sflv3"
    for number in (1, 2):
        reason = paragraph_of(run.output, f"Client 1 is left out of round {number}: ")
        assert f"round {number}: failing/disk.py, line " in reason
        assert reason.endswith(" in batch: OSError: the disk is broken")
    assert [row["failed_clients"] for row in there.rounds] == [[1], [1]]
    checked = Config.load(config)
    images = input_spec(checked.model.name)
    whole = [load_shard(checked, client, 3, images).train for client in (0, 2)]
    assert len(whole[0]) != len(whole[1])
    assert [row["num_examples"] for row in there.rounds] == [sum(map(len, whole))] * 2

    monkeypatch.setattr(client_app, "load_shard", broken_for(1, vars(client_app)["load_shard"]))
    here = simulate(config | {"run-name": "here"})
    assert_same_weights(there.weights, RunFiles.read(here.run_dir).weights)
    assert there.num_bytes == RunFiles.read(here.run_dir).num_bytes


def test_fedsplit_run_exits_with_1_when_every_client_diverges(
    flower: Flower, tmp_path: Path
) -> None:
    """Flower's log and list say the reason in one paragraph, and not where in the code.

    What else a run is refused or ended by is shown without processes: tests/test_server_app.py.
    It also shows that `Flower` tells a failed run from a completed one.
    """
    settings = {**SMALL, "optimizer": "sgd", "learning-rate": 1e6, "run-name": "diverges"}
    settings["max-concurrent-clients"] = 1  # one of Ray's processes is enough
    command = fedsplit_run(str(APP_DIR), "--num-clients=2")
    command += [f"--set={key}={value}" for key, value in settings.items()]
    command += ["--output-dir", str(tmp_path)]
    flower.need_worker()
    done = flower.call(command, timeout_seconds=400.0, merge=False)

    assert done.returncode == 1, done.stdout + done.stderr
    printed = (tmp_path / "diverges" / "flower.txt").read_text(encoding="utf-8")
    run = flower.ended(subprocess.CompletedProcess(command, 1, printed))
    assert run.status == "finished:failed"
    assert [text for text in REFUSED_TEXT if text in done.stdout] == []
    paragraph = paragraph_of(done.stdout, "Every participant")
    assert "Every participant of round 1 failed" in paragraph
    assert "lower learning-rate" in paragraph.lower()
    assert paragraph.endswith(run.details.partition("with exception: ")[2])
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "diverges") in paragraph_of(done.stderr, "fedsplit: ")
