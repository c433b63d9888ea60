"""Runs of objects that continue, and what resume, Flower, compare and predict refuse of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp.strategy import FedAdam

from fedsplit import Config, Metric, Result, StopRun, simulate
from fedsplit.errors import ConfigError, RunError
from fedsplit.inprocess import run_in_process
from fedsplit.models import load_model
from fedsplit.results.run_directory import RunDirectory
from strategies.sflv1 import SFLV1
from tests.conftest import Call
from tests.notebook import Toy, parts, run_small, same
from tests.strategies.own import Slowing
from tests.test_continuation import killed_after

pytestmark = pytest.mark.usefixtures("undrawn")
LIGHT = Metric("light", "share of light")
FEW = {"num_server_rounds": 2, "data_max_train_samples": 64, "data_max_test_samples": 16}
"""Keys of a run of fashion-mini, which without them trains on all of its 6,000 images."""


def _objects(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    class Local(SFLV1):
        pass

    return {
        "data": Toy(),
        "model": parts(),
        "strategy": Local,
        "aggregator": Slowing(step=0.5),
        "metrics": {LIGHT: lambda logits, labels: (logits.argmax(-1) == 1).float().mean()},
        **changes,
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    result: Result = run_small(tmp_path_factory.mktemp("objects"), **_objects())
    return result


@pytest.mark.parametrize("done", [1, 2])
def test_a_run_continues_with_its_objects_bit_for_bit(
    done: int, finished: Result, tmp_path: Path
) -> None:
    """Break it: keep only arrays of an aggregator; its count then begins again."""
    killed = killed_after(done, finished, tmp_path)
    continued = simulate(resume=killed, **_objects(), verbose=False)
    assert same(finished, continued)
    assert (killed / "model").is_dir()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": None}, r"lacks data \(Toy\), .*simulate\(resume='.*', data=\.\.\., model="),
        ({"model": None}, r"lacks model \(SplitModel\), which simulate\(\) was given"),
        ({"strategy": None}, r"lacks strategy \(Local\), which"),
        ({"aggregator": None}, r"lacks aggregator \(Slowing\), which"),
        ({"metrics": None}, r"lacks metrics \(light\), .*aggregator=\.\.\., metrics=\.\.\.\)"),
        ({"data": Toy(first=200)}, r"The images of client 0.* are not those.*files or objects"),
        ({"data": Toy(60)}, r"Client 0 holds \[\d+, \d+\], but held"),
        ({"model": parts(seed=9)}, r"of a module, all of its first weights.* are not those"),
        ({"model": load_model("vit-nano", num_labels=2)}, r"model\.name = 'object:ViTForImageC"),
        ({"aggregator": Slowing(step=0.25)}, r"aggregation\.options = 'step = 0\.25, num_rounds"),
        ({"aggregator": FedAdam()}, r"aggregation\.name = 'object:FedAdam', so far 'object:Slow"),
        ({"strategy": SFLV1}, "strategy = 'sflv1', so far 'object:Local'"),
        ({"data": None, "data_name": "fashion-mini"}, r"data\.name = 'fashion-mini', so far"),
    ],
)
def test_it_does_not_continue_with_others_or_without_them(
    changes: dict[str, Any], said: str, finished: Result, tmp_path: Path
) -> None:
    killed = killed_after(1, finished, tmp_path)
    before = sorted(path.name for path in killed.rglob("*"))
    with pytest.raises(ConfigError, match=said):
        simulate(resume=killed, **_objects(**changes), verbose=False)
    assert sorted(path.name for path in killed.rglob("*") if path.name != ".lock") == [
        name for name in before if name != ".lock"
    ]


def test_a_run_without_objects_does_not_continue_with_one(finished: Result, tmp_path: Path) -> None:
    result = run_small(tmp_path, data=Toy(), model_name="tests.small_models:make")
    killed = killed_after(1, result, tmp_path)
    with pytest.raises(
        ConfigError, match=r"'object:SplitModel', so far 'tests\.small_models:make'"
    ):
        simulate(resume=killed, data=Toy(), model=parts())


def test_an_unfinished_run_says_how_to_continue(tmp_path: Path) -> None:
    """And it works. Break it: call back before the round's checkpoint is written."""
    rows: list[int] = []

    def fail(row: dict[str, Any]) -> None:
        rows.append(row["round"])
        if row["round"] == 2:
            raise KeyError("loss")

    said = (
        r"The callback fail failed after round 2 \(KeyError: 'loss'\).*Everything up to round 2 is "
        r"kept\. Continue with: simulate\(resume='.*', data=\.\.\., model=\.\.\., "
        r"callbacks=\.\.\.\)"
    )
    with pytest.raises(RunError, match=said) as caught:
        run_small(
            *(tmp_path,),
            data=Toy(),
            model=parts(),
            callbacks=[fail],
            checkpoint_every=3,
            run_name="x",
        )
    assert isinstance(caught.value.__cause__, KeyError)
    continued = simulate(
        resume=tmp_path / "x",
        data=Toy(),
        model=parts(),
        callbacks=[lambda row: rows.append(row["round"])],
        verbose=False,
    )
    assert rows == [1, 2, 3]
    assert same(continued, run_small(tmp_path, data=Toy(), model=parts()))


def test_a_callback_ends_a_run_as_patience_does(tmp_path: Path) -> None:
    """Break it: write no checkpoint of the round that is the last by then."""

    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise StopRun("good enough")

    given: dict[str, Any] = {"data": Toy(), "model": parts()}
    result = run_small(tmp_path, **given, callbacks=[stop], checkpoint_every=5)
    assert [row["round"] for row in result.rounds] == [1, 2]
    assert result.summary["stopped_early"] is True
    assert RunDirectory(result.run_dir).checkpoints.rounds() == [2]
    assert "2 of 3 rounds (stopped early)" in str(result)
    assert (result.run_dir / "model").is_dir()
    continued = simulate(resume=result.run_dir, **given, verbose=False)
    assert same(continued, run_small(tmp_path, **given))
    assert continued.summary["stopped_early"] is False


def test_a_stop_after_the_last_round_is_no_early_one(tmp_path: Path) -> None:
    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 3:
            raise StopRun

    result = run_small(tmp_path, data=Toy(), model=parts(), callbacks=[stop])
    assert result.summary["stopped_early"] is False


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "{config}", "--set", "run-name=y", "--engine", "inprocess"),
        ("run", "{config}", "--set", "run-name=y"),
        ("compare", "{comparison}"),
    ],
    ids=" ".join,
)
def test_the_command_line_refuses_objects_with_the_remedy(
    arguments: tuple[str, ...], finished: Result, tmp_path: Path, call: Call
) -> None:
    """What cannot travel to Ray. Break it: look for a module called 'object'."""
    comparison = tmp_path / "comparison.toml"
    comparison.write_text(
        "name = 'objects'\nseeds = [1]\nbase = {'data.name' = 'object:Toy', num-clients = 2}\n"
        "[[variants]]\nlabel = 'one'\n"
    )
    places = {
        "config": str(finished.run_dir / "config.toml"),
        "comparison": str(comparison),
    }
    code, said = call(*(argument.format(**places) for argument in arguments))
    assert code == 2
    assert "data.name = 'object:Toy' stands for an object that was given to simulate()" in said
    assert "set data.name to package.module:name (docs/extending.md)" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("engine", ["inprocess", "flower"])
@pytest.mark.parametrize("done", [0, 1])
def test_the_command_line_names_the_call_that_continues_a_run_of_objects(
    done: int, engine: str, finished: Result, tmp_path: Path, call: Call
) -> None:
    """Break it: name `fedsplit run --resume`, which is the command that has just been refused."""
    killed = killed_after(done, finished, tmp_path)
    code, said = call("run", "--resume", str(killed), "--engine", engine)
    assert code == 2
    assert (
        f"The run in '{killed}' lacks data (Toy), model (SplitModel), strategy (Local), aggregator "
        "(Slowing), metrics (light), which simulate() was given: they stay in the process that "
        f"made them. Continue with: simulate(resume='{killed}', data=..., model=..., strategy=..., "
        "aggregator=..., metrics=...)" in said
    )
    assert "fedsplit run --resume" not in said


@pytest.mark.parametrize("done", [0, 1])
def test_metrics_are_not_dropped_in_a_new_process(done: int, tmp_path: Path, call: Call) -> None:
    """And neither by simulate. Break it: ask the checkpoint only; without one, the run begins
    again without its metrics."""
    given: dict[str, Any] = {"metrics": {LIGHT: lambda logits, labels: 0.5}}
    result = run_small(tmp_path, **FEW, **given)
    killed = killed_after(done, result, tmp_path)
    wanted = f"Continue with: simulate(resume='{killed}', metrics=...)"
    for engine in ("inprocess", "flower"):
        code, said = call("run", "--resume", str(killed), "--engine", engine)
        assert code == 2
        assert "lacks metrics (light)" in said
        assert wanted in said
    with pytest.raises(ConfigError, match=r"lacks metrics \(light\)"):
        simulate(resume=killed, verbose=False)
    config = Config.load(killed / "resume.toml")  # as `flwr run --run-config` does
    with pytest.raises(ConfigError, match=r"lacks metrics \(light\)"):
        run_in_process(config)
    continued = simulate(resume=killed, **given, verbose=False)
    assert [row["light"] for row in continued.rounds] == [0.5, 0.5]


def test_a_run_that_continues_without_its_callbacks_says_so(tmp_path: Path, call: Call) -> None:
    """They only watch, so it continues. Break it: say nothing."""

    def watch(row: dict[str, Any]) -> None:
        pass

    result = run_small(tmp_path, **FEW, callbacks=[watch])
    killed = killed_after(1, result, tmp_path)
    assert f"simulate(resume='{killed}', callbacks=...)" in RunDirectory(killed).how_to_continue()
    code, _ = call("run", "--resume", str(killed))
    assert code == 0
    log = (killed / "log.txt").read_text()  # its warnings too
    assert "callbacks (watch), which simulate() was given when the run began, are not called" in log


def test_predict_takes_the_model_of_a_known_class_and_says_what_to_do_with_others(
    finished: Result, tmp_path: Path, call: Call
) -> None:
    image = tmp_path / "image.png"
    Toy()[0][0].save(image)
    code, said = call("predict", str(finished.run_dir), str(image))
    assert code == 2
    assert "is made of modules that simulate() was given as an object" in said
    config = finished.run_dir / "model" / "config.json"
    copied = tmp_path / "copied"
    shutil.copytree(finished.run_dir, copied)
    named = {**json.loads(config.read_text()), "factory": "tests.small_models:make"}
    (copied / "model" / "config.json").write_text(json.dumps(named))
    code, said = call("predict", str(copied), str(image))
    assert code == 2
    assert "factory = 'tests.small_models:make'" in said
    assert call("predict", str(copied), str(image), "--trust")[0] == 0


@pytest.mark.slow
def test_predict_reads_the_model_of_a_module_of_transformers(tmp_path: Path, call: Call) -> None:
    module = load_model("vit-nano", num_labels=2)
    result = run_small(tmp_path, data=Toy(), model=module, num_server_rounds=1)
    image = tmp_path / "image.png"
    Toy()[0][0].save(image)
    assert call("predict", str(result.run_dir), str(image))[0] == 0
