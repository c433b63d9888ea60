"""Results of changed images or code are not mixed with new ones, whether finished or half done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedsplit import simulate
from fedsplit.checking import check_images
from fedsplit.compare.directory import find_runs
from fedsplit.compare.runs import Plan, make_plan
from fedsplit.config import Config
from fedsplit.errors import ConfigError
from fedsplit.input_spec import InputSpec
from fedsplit.models import load_model, save_model
from fedsplit.results.run_directory import RunDirectory
from tests.compare.test_runs import write
from tests.data.pictures import image_folder, picture
from tests.test_own_code import app
from tests.test_own_code import write as write_code

__all__ = ["app"]

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]

TEXT = """
name = "c"
seeds = [1, 2]
[base]
num-clients = 2
num-server-rounds = 2
batch-size = 8
data.name = "{data}"
model.name = "{model}"
model.trust = true
[[variants]]
label = "one"
strategy = "{strategy}"
"""


def begun(tmp_path: Path, strategy: str = "sflv1", model: str = "vit-nano") -> Plan:
    """Return a comparison whose first run has finished, and whose second is half done."""
    for split, count in (("train", 24), ("test", 8)):
        image_folder(tmp_path / "data" / split, {"dark": count, "light": count})
    plan = again(tmp_path, strategy, model)
    for run in plan.runs:
        simulate(run.config)
    kept = RunDirectory(plan.runs[1].directory)
    kept.checkpoints.remove_after(1)
    kept.summary_path.unlink()
    return plan


def again(tmp_path: Path, strategy: str = "sflv1", model: str = "vit-nano") -> Plan:
    text = TEXT.format(data=tmp_path / "data", strategy=strategy, model=model)
    return make_plan(write(tmp_path, text), tmp_path)


def refused(plan: Plan) -> list[str]:
    """Return what is said of the finished run and of the half-done one."""
    with pytest.raises(ConfigError) as caught:
        find_runs(plan)
    head, *lines = str(caught.value).split("\n  ")
    assert "Remove them, or choose another --output-dir or name:" in head
    finished, half_done = lines
    assert finished.startswith(f"'{plan.runs[0].directory}' differs in ")
    assert half_done.startswith(f"'{plan.runs[1].directory}' is half done, and differs in ")
    return lines


def test_runs_of_other_images_are_refused(tmp_path: Path) -> None:
    """Break it: compare the configs only; or only finished runs; or only the numbers of images."""
    plan = begun(tmp_path)
    found = find_runs(plan)
    assert found.finished == {plan.runs[0]}
    assert list(found.begun) == [plan.runs[1]]

    train, test = tmp_path / "data" / "train", tmp_path / "data" / "test"
    picture(900).save(train / "dark" / "900.png")
    for line in refused(again(tmp_path)):
        assert "the data set, which has changed since: 44 images to train, now 45" in line
    (train / "dark" / "900.png").unlink()

    changed = test / "light" / "003.png"
    picture(901).save(changed)
    for line in refused(again(tmp_path)):
        assert line.endswith("the data set, which has changed since: other images of the test set")
    picture(3).save(changed)

    (train / "dark" / "003.png").rename(train / "light" / "zzz.png")
    for line in refused(again(tmp_path)):
        assert "the data set, which has changed since: other classes of the images of cl" in line
    (train / "light" / "zzz.png").rename(train / "dark" / "003.png")
    assert find_runs(again(tmp_path)).finished == {plan.runs[0]}


def test_without_checkpoints_the_numbers_of_images_still_count(tmp_path: Path) -> None:
    """Of a finished run. Break it: compare only what checkpoints keep."""
    plan = begun(tmp_path)
    for run in plan.runs:
        shutil.rmtree(RunDirectory(run.directory).checkpoints.folder)
    picture(900).save(tmp_path / "data" / "test" / "dark" / "900.png")
    with pytest.raises(ConfigError) as caught:
        find_runs(again(tmp_path))
    _, line = str(caught.value).split("\n  ")  # the other one begins again
    assert "16 images to test, now 17" in line


def test_runs_of_other_code_are_refused_also_half_done(app: Path, tmp_path: Path) -> None:
    """Break it: let half-done runs continue with other code, with a warning in their own log."""
    begun(tmp_path, "mine.strategy:Strategy")
    write_code(app, 2)
    for line in refused(again(tmp_path, "mine.strategy:Strategy")):
        assert line.endswith("differs in your own code, which has changed since")


def test_a_model_that_the_runs_trust_is_trusted_when_they_are_compared(tmp_path: Path) -> None:
    """Break it: resolve the model without `model.trust`."""
    model, saved = load_model("tests.models.own:make", num_labels=2), tmp_path / "saved"
    save_model(model, InputSpec(1, 28, 28, (0.5,), (0.5,)), saved)
    plan = begun(tmp_path, model=str(saved))
    again_planned = again(tmp_path, model=str(saved))
    assert list(find_runs(again_planned).begun) == [again_planned.runs[1]]
    assert check_images(plan.runs[0].config) > 0  # as --dry-run does


def test_a_half_done_run_may_still_get_more_rounds(tmp_path: Path) -> None:
    """Break it: compare all keys of a half-done run."""
    plan = begun(tmp_path)
    shutil.rmtree(plan.runs[0].directory)
    write(tmp_path, (tmp_path / "compare.toml").read_text().replace("rounds = 2", "rounds = 3"))
    longer = make_plan(tmp_path / "compare.toml", tmp_path)
    assert list(find_runs(longer).begun) == [longer.runs[1]]
    assert isinstance(longer.runs[1].config, Config)
