"""What goes wrong under Flower: the run fails with one paragraph, or goes on without a client."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedsplit import client_app, simulate
from tests.e2e.failing.failing.disk import broken_for
from tests.e2e.flower import Flower, FlowerRun, program
from tests.e2e.runs import (
    APP_DIR,
    REFUSED_TEXT,
    SMALL,
    RunFiles,
    assert_same_weights,
    paragraph_of,
    run_directory_of,
)

FAILING = Path(__file__).with_name("failing")

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def failed(flower: Flower) -> Mapping[str, FlowerRun]:
    """Run three configs that only the ServerApp can refuse; at once, for each mostly waits."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        configs = {
            "nodes": {"num-clients": 3, "connect-timeout": 3.0},
            "cut": {"split.cut-layer": 99},
            "port": {"channel.address": f"127.0.0.1:{taken.getsockname()[1]}"},
        }
        with flower.worker(), ThreadPoolExecutor(len(configs)) as threads:
            runs = threads.map(
                lambda config: flower.submit(APP_DIR, run_config=SMALL | config), configs.values()
            )
            return dict(zip(configs, runs, strict=True))


@pytest.mark.parametrize(
    ("which", "start", "value", "remedy"),
    [
        (
            "nodes",
            "num-clients = 3",
            "2 SuperNodes are connected after 3 seconds",
            "num-supernodes=3",
        ),
        ("cut", r"\b99\b", "99", "1 <= "),
        ("port", r"channel\.address = ", "is in use", "set port 0"),
    ],
)
def test_a_run_that_cannot_start_says_why_in_one_paragraph(
    failed: Mapping[str, FlowerRun], which: str, start: str, value: str, remedy: str
) -> None:
    run = failed[which]
    assert run.status == "finished:failed", run.output
    assert [text for text in REFUSED_TEXT if text in run.output] == []

    paragraph = paragraph_of(run.output, start)
    assert value in paragraph
    assert remedy in paragraph
    assert paragraph.endswith(run.details.partition("with exception: ")[2])


def test_a_client_that_fails_in_a_round_leaves_the_others_whole(
    flower: Flower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMALL | {"num-clients": 3, "output-dir": str(tmp_path), "run-name": "there"}

    run = flower.run(
        failing_app(tmp_path / "app"),
        federation="num-supernodes=3 client-resources-num-cpus=1",
        run_config=config,
    )

    assert run.completed, run.output
    there = RunFiles.read(run_directory_of(run.output))
    reason = paragraph_of(run.output, "Client 1 is left out of round 1: ")
    assert reason.endswith("round 1: OSError: the disk is broken")
    assert [row["failed_clients"] for row in there.rounds] == [[1]]
    assert [row["num_examples"] for row in there.rounds] == [360]  # 200 less 20 for each of two

    monkeypatch.setattr(client_app, "load_shard", broken_for(1, vars(client_app)["load_shard"]))
    here = simulate(config | {"run-name": "here"})
    assert_same_weights(there.weights, RunFiles.read(here.run_dir).weights)


def test_fedsplit_run_exits_with_1_when_every_client_diverges(
    flower: Flower, tmp_path: Path
) -> None:
    settings = {**SMALL, "optimizer": "sgd", "learning-rate": 1e6, "run-name": "diverges"}
    command = [program("fedsplit"), "run", str(APP_DIR), "--num-clients=2"]
    command += [f"--set={key}={value}" for key, value in settings.items()]
    command += ["--output-dir", str(tmp_path)]
    with flower.worker():
        done = flower.call(command, timeout_seconds=300.0, merge=False)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "Every participant of round 1 failed" in paragraph_of(done.stdout, "Every participant")
    assert "lower learning-rate" in paragraph_of(done.stdout, "Every participant").lower()
    assert "Traceback" not in done.stdout + done.stderr
    assert str(tmp_path / "diverges") in paragraph_of(done.stderr, "fedsplit: ")


def failing_app(folder: Path) -> Path:
    """Make a Flower app that is this one, but for a client whose disk breaks."""
    shutil.copytree(FAILING, folder)
    project = (APP_DIR / "pyproject.toml").read_text(encoding="utf-8")
    project = project.replace("fedsplit.client_app:app", "failing.app:app")
    before, start, rest = project.partition("fab-include = [")
    _, end, after = rest.partition("]")
    project = before + start + json.dumps("failing/*.py") + end + after
    (folder / "pyproject.toml").write_text(project, encoding="utf-8")
    return folder
