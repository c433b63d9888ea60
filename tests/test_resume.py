"""Which runs may continue, and with which keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from fedsplit import Config, Result, load_split_model, simulate
from fedsplit.data.loader import Images
from fedsplit.errors import ConfigError, FedSplitError, RunError
from fedsplit.inprocess import IN_PROCESS
from fedsplit.locks import FileLock
from fedsplit.report import commands
from fedsplit.report.facts import facts_of
from fedsplit.report.gather import read_run
from fedsplit.results.recorder import Recorder
from fedsplit.resume import continued, engine_of
from tests.conftest import Call, Run, distance, weights
from tests.test_continuation import assert_same_results, killed_after

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def killed(run: Run, tmp_path: Path) -> Path:
    """Give the directory of a run of two rounds that was killed after the first."""
    return killed_after(1, run(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch-size": 16}, "batch-size = 16, so far 8"),
        ({"seed": 8, "split.cut-layer": 2}, "seed = 8, so far 7\n  split.cut-layer = 2, so far 1"),
        ({"torch-threads": 2}, "torch-threads = 2, so far 1"),
        ({"num-clients": 5}, "num-clients = 5, so far 4"),
        ({"run-name": "other"}, "run-name = 'other': a run continues in its own directory"),
        ({"output-dir": "there"}, "output-dir = 'there': a run continues in its own directory"),
    ],
)
def test_keys_that_make_another_run_are_refused_by_name(
    killed: Path, changes: dict[str, object], said: str
) -> None:
    """Break it: check only the first key."""
    with pytest.raises(ConfigError) as caught:
        continued(killed, changes)
    assert said in str(caught.value)


def test_keys_that_only_lengthen_or_place_a_run_are_taken(killed: Path) -> None:
    changes = {"num-server-rounds": 5, "checkpoint-every": 2, "channel.step-timeout": 9.0}
    found = continued(killed, changes)
    assert {key: found.to_flat()[key] for key in changes} == changes
    assert found.resume == str(killed)
    assert Path(found.output_dir) / found.run_name == killed


def test_a_cosine_over_all_rounds_fixes_their_number(run: Run, tmp_path: Path) -> None:
    killed = killed_after(1, run(learning_rate_schedule="cosine"), tmp_path)
    with pytest.raises(ConfigError, match="num-server-rounds = 3, so far 2"):
        continued(killed, {"num-server-rounds": 3})


def test_a_finished_run_is_not_continued_but_lengthened(run: Run, tmp_path: Path) -> None:
    """Break it: leave the old summary; count the rounds of the new one only."""
    finished = shutil.copytree(run().run_dir, tmp_path / "finished")
    with pytest.raises(ConfigError, match=r"has finished all its 2 rounds.*num-server-rounds"):
        continued(finished, {})
    with pytest.raises(ConfigError, match="num-server-rounds = 1, but 2 are finished"):
        continued(finished, {"num-server-rounds": 1})
    longer = simulate(resume=finished, num_server_rounds=3)
    assert_same_results(run(num_server_rounds=3), longer)
    assert "num-server-rounds = 3" in (finished / "config.toml").read_text()


def test_a_run_that_died_after_its_last_round_only_writes_its_results(
    run: Run, tmp_path: Path
) -> None:
    """Break it: score and save the initial weights."""
    for keys in ({}, {"strategy": "sflv3", "num_server_rounds": 3}):
        unbroken = run(**keys)
        folder = tmp_path / str(len(keys))
        folder.mkdir()
        died = killed_after(len(unbroken.rounds), unbroken, folder)
        assert_same_results(unbroken, simulate(resume=died))
        if keys:
            assert len(list((died / "clients").iterdir())) == 4


def test_a_run_without_a_finished_round_begins_again_in_its_directory(
    run: Run, tmp_path: Path
) -> None:
    killed = killed_after(0, run(), tmp_path)
    assert len((killed / "rounds.jsonl").read_text().splitlines()) == 2
    assert_same_results(run(), simulate(resume=killed))
    assert len((killed / "rounds.jsonl").read_text().splitlines()) == 2


def test_a_run_that_writes_no_checkpoints_cannot_continue(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint-every = 0, so it cannot.*--set run-name"):
        continued(run(checkpoint_every=0).run_dir, {"num-server-rounds": 3})


def test_only_every_nth_round_and_the_last_are_kept(run: Run, tmp_path: Path) -> None:
    result = run(checkpoint_every=2, num_server_rounds=5)
    kept = {int(path.stem[-6:]) for path in (result.run_dir / "checkpoints").iterdir()}
    assert {4, 5} <= kept <= {2, 4, 5}
    assert_same_results(result, simulate(resume=killed_after(4, result, tmp_path)))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="is not the directory of a run"):
            continued(path, {})


def test_a_run_that_another_process_makes_is_refused(killed: Path) -> None:
    """Break it: take no lock. A lock counts for each time that its file is opened."""
    from fedsplit.results.run_directory import RunDirectory

    config = continued(killed, {})
    held = RunDirectory.reopen(config, 1)
    with pytest.raises(ConfigError, match="is going on in process"):
        simulate(resume=killed)
    held.close()
    assert simulate(resume=killed).summary["finished_rounds"] == 2


def _with_values(killed: Path, change: Callable[[dict[str, object]], None]) -> None:
    from fedsplit.snapshot import load, save

    *_, path = sorted((killed / "checkpoints").iterdir())
    state = load(path)
    change(state)
    save(state, path)


def test_other_images_than_so_far_are_refused(killed: Path) -> None:
    """Break it: compare the numbers of clients only."""

    def move_an_image(state: dict[str, object]) -> None:
        counts = state["inputs"]["class_counts"]["2"]  # type: ignore[index]
        counts[0], counts[1] = counts[0] + 1, counts[1] - 1

    _with_values(killed, move_an_image)
    with pytest.raises(ConfigError, match=r"Client 2 holds \[.*\], but held \["):
        simulate(resume=killed)


def test_other_pixels_or_frozen_weights_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: compare counts only, or keep no digest of what is frozen."""
    saved = run(strategy="full", num_server_rounds=1)
    model, other = tmp_path / "model", run(strategy="full", num_server_rounds=2).run_dir / "model"
    shutil.copytree(saved.run_dir / "model", model)
    finished = run(
        **{"model.name": str(model), "split.trainable": "bottom-frozen", "num-server-rounds": 3}
    )
    killed = killed_after(2, finished, tmp_path)
    shutil.rmtree(model)
    shutil.copytree(other, model)
    with pytest.raises(ConfigError, match=r"The frozen weights of model\.name"):
        simulate(resume=killed)
    shutil.rmtree(model)
    shutil.copytree(saved.run_dir / "model", model)
    fit = Images.batch

    def darker(images: Images, indices: Tensor) -> tuple[Tensor, Tensor]:
        pixels, labels = fit(images, indices)
        return pixels * 0.9, labels

    with monkeypatch.context() as patch:
        patch.setattr(Images, "batch", darker)
        with pytest.raises(ConfigError, match=r"images of client 0, .*, the test set are not"):
            simulate(resume=killed)
    assert_same_results(finished, simulate(resume=killed))


def test_a_run_continues_from_any_working_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: keep the relative path of a folder; there may be another one in its place."""
    saved = run(strategy="full", num_server_rounds=1)
    shutil.copytree(saved.run_dir / "model", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    ended = run(**{"model.name": "mine", "num-server-rounds": 2}, again=True)
    assert Config.load(ended.run_dir / "config.toml").model.name == str(tmp_path / "mine")


def test_a_run_that_is_going_on_is_refused_at_once(killed: Path) -> None:
    lock = FileLock.take(killed / ".lock")
    assert lock is not None
    with pytest.raises(ConfigError, match="is going on in process"):
        continued(killed, {})
    lock.release()
    assert continued(killed, {}).resume == str(killed)


@pytest.mark.parametrize("key", ["output-dir", "output_dir", "run-name", "run_name"])
def test_a_run_continues_in_its_own_directory_only(killed: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="a run continues in its own directory"):
        continued(killed, {key: "elsewhere"})


def test_a_run_without_a_checkpoint_begins_again_with_its_engine(killed: Path) -> None:
    """Break it: take Flower, which is the default of the command line."""
    shutil.rmtree(killed / "checkpoints")
    assert engine_of(continued(killed, {})) == "inprocess"


def test_a_run_that_fails_before_its_first_score_knows_its_engine(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """Break it: write down the engine with the first score, in start.json."""

    def fail(*_: object, **__: object) -> None:
        raise RunError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "start", fail)
        with pytest.raises(RunError):
            simulate(tiny, run_name="early")
    early = Path(str(tiny["output-dir"])) / "early"
    assert not (early / "start.json").exists()
    assert call("run", "--resume", str(early), "--set", "num-server-rounds=2") == (0, "")
    assert json.loads((early / "summary.json").read_text())["engine"] == "inprocess"


def test_where_the_engine_is_not_known_it_is_asked_for(killed: Path, call: Call) -> None:
    """A run of an earlier version. Break it: take Flower."""
    (killed / "process.json").unlink()
    assert engine_of(continued(killed, {})) == "inprocess"  # its checkpoint knows
    shutil.rmtree(killed / "checkpoints")
    code, said = call("run", "--resume", str(killed))
    assert code == 2
    assert f"It is not known which engine the run in '{killed}' began with" in said
    assert "--engine inprocess or --engine flower" in said
    assert call("run", "--resume", str(killed), "--engine", "inprocess")[0] == 0


def test_a_run_that_continues_in_the_other_engine_names_both(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """Break it: keep the first engine, or write down the second one only."""
    killed = killed_after(1, run(), tmp_path)

    def fail(row: dict[str, Any]) -> None:
        raise RunError(f"round {row['round']}")

    with monkeypatch.context() as patch:
        patch.setattr("fedsplit.inprocess.IN_PROCESS", replace(IN_PROCESS, name="flower"))
        with pytest.raises(RunError, match="round 2"):
            simulate(resume=killed, callbacks=[fail], num_server_rounds=3)
    both = "inprocess; from round 2: flower"
    unfinished = read_run(killed)
    assert len(unfinished.rounds) == 2
    assert unfinished.summary["engine"] == both
    assert engine_of(continued(killed, {})) == "flower"
    assert call("run", "--resume", str(killed), "--engine", "inprocess")[0] == 0
    finished = read_run(killed)
    assert facts_of([finished])["Engine"] == f"{both}; from round 3: inprocess"
    assert "--engine inprocess" in commands.again(finished)


def test_another_format_is_refused_and_another_version_told(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _with_values(killed, lambda state: state["versions"].update(torch="1.0"))  # type: ignore[attr-defined]
    simulate(resume=killed)
    assert "began with torch 1.0 and continues with" in caplog.text
    _with_values(killed, lambda state: state.update(format=99))
    with pytest.raises(FedSplitError, match="have the format 99"):
        simulate(resume=killed, num_server_rounds=3)


@pytest.mark.parametrize(
    "place",
    [
        "strategy/server/magnitudes",
        "strategy/kept/rounds",
        "recorder/rows",
        "recorder/metrics",
        "inputs/shards",
        "arrays",
        "versions",
    ],
)
def test_a_checkpoint_that_lacks_a_key_is_refused_in_a_sentence(
    killed: Path, call: Call, place: str
) -> None:
    """One of an earlier version. Break it: read the state as a plain dict (KeyError), or name the
    command again that has just been refused."""
    *folders, key = place.split("/")

    def remove(state: dict[str, Any]) -> None:
        for folder in folders:
            state = state[folder]
        del state[key]

    _with_values(killed, remove)
    code, said = call("run", "--resume", str(killed))
    assert code == 2
    assert f"'{key}'" in said
    assert "Another version of fedsplit has written it. Continue with that version, or" in said
    assert "Traceback" not in said
    assert "--resume" not in said
    assert not (killed / "error.txt").exists()


def test_the_command_line_continues_a_run(run: Run, killed: Path, call: Call) -> None:
    """With the engine that began it."""
    assert call("run", "--resume", str(killed)) == (0, "")
    summary = json.loads((killed / "summary.json").read_text())
    assert summary["final_accuracy"] == run().summary["final_accuracy"]
    assert summary["engine"] == "inprocess"
    code, err = call("run", "some.toml", "--resume", str(killed))
    assert (code, "takes the config of" in err) == (2, True)
    code, err = call("run", "--resume", str(killed), "--set", "seed=1")
    assert (code, "seed = 1, so far 7" in err) == (2, True)


def test_a_directory_that_was_moved_continues(run: Run, killed: Path, tmp_path: Path) -> None:
    moved = killed.rename(tmp_path / "moved")
    result = simulate(resume=moved)
    assert_same_results(run(), result)
    assert result.run_dir == moved


def test_a_config_beside_resume_counts_as_changes(killed: Path) -> None:
    saved = killed / "config.toml"
    with pytest.raises(ConfigError, match="seed = 9, so far 7"):
        simulate(saved, resume=killed, seed=9)
    result: Result = simulate(saved, resume=killed)
    assert result.run_dir == killed


@pytest.mark.parametrize("strategy", ["sflv1", "sflv3", "full"])
def test_the_weights_of_the_best_round_are_kept_beside_the_last(run: Run, strategy: str) -> None:
    """Break it: save the last weights twice."""
    keys: dict[str, object] = {
        "strategy": strategy,
        "learning_rate": 0.1,
        "data_max_train_samples": 160,
    }
    result = run(num_server_rounds=4, **keys)
    best = result.summary["best_round"]
    assert best < 4, "choose a run whose last round is not its best"
    shorter = run(num_server_rounds=best, **keys)
    for folder, expected in (("best", shorter), ("model", result)):
        loaded = load_split_model(str(result.run_dir / folder), [1]).merge().state_dict()
        assert distance(loaded, weights(expected)) == 0.0
    if strategy == "sflv3":
        for folder, other in (("best-clients", shorter), ("clients", result)):
            for part in (other.run_dir / "clients").iterdir():
                assert (result.run_dir / folder / part.name).read_bytes() == part.read_bytes()


def test_a_finished_run_whose_lengthening_fails_is_as_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: remove the summary before the checkpoint has been loaded."""
    finished = tmp_path / "finished"
    shutil.copytree(run().run_dir, finished)
    before = {path: path.read_bytes() for path in finished.iterdir() if path.is_file()}

    def fail(*_: object) -> None:
        raise ConfigError("The saved state lacks 'x'.")

    with monkeypatch.context() as patch:
        patch.setattr("strategies.base.FederatedStrategy.load_state_dict", fail)
        with pytest.raises(ConfigError, match="lacks 'x'"):
            simulate(resume=finished, num_server_rounds=4)
    after = {path: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    changed = {path.name for path in after if before.get(path) != after[path]}
    assert changed <= {"error.txt", "log.txt", ".lock"}
    assert simulate(resume=finished, num_server_rounds=3).summary["finished_rounds"] == 3
