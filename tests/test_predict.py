"""`fedsplit predict` says of an image what the run's own test says of it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from fedsplit import Result, cli, simulate
from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_images
from fedsplit.errors import FedSplitError
from fedsplit.predict import predict
from tests.conftest import TINY
from tests.data.pictures import picture
from tests.data.strangers import EPS, pipe

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    directory = tmp_path_factory.mktemp("runs")
    return simulate({**TINY, "output-dir": str(directory), "learning-rate": 0.2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the run's test images, called by number and class."""
    directory = tmp_path_factory.mktemp("images")
    keys = ("data.max-train-samples", "data.max-test-samples")
    train, test = (TINY[key] for key in keys)
    assert isinstance(train, int)
    assert isinstance(test, int)
    images = load_images(DataConfig(max_train_samples=train, max_test_samples=test))
    for number, row in enumerate(images.test):
        row["image"].save(directory / f"{number:03}-{row['label']}.png")
    return directory


def test_a_folder_of_test_images_has_the_runs_accuracy(result: Result, folder: Path) -> None:
    """Break it: leave out the normalisation, or take the classes in another order."""
    assert _matrix(result, folder) == result.summary["confusion_matrix"]
    for prediction in predict(result.run_dir, [folder]):
        probabilities = list(prediction.probabilities.values())
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-5)
        assert probabilities == sorted(probabilities, reverse=True)


def test_the_command_shows_classes_or_all_of_them_as_json(
    result: Result,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Break it: sort the images, or print fewer classes as JSON."""
    first, *_, last = sorted(folder.iterdir())
    expected = predict(result.run_dir, [last, first])

    def said(*more: str) -> str:
        command = ["fedsplit", "predict", str(result.run_dir), str(last), str(first), *more]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr().out

    assert json.loads(said("--json")) == [
        {"image": str(p.path), "probabilities": p.probabilities} for p in expected
    ]
    _, _, *rows = said().splitlines()
    for row, prediction in zip(rows, expected, strict=True):
        likely, score = next(iter(prediction.probabilities.items()))
        assert re.search(rf"{prediction.path.name} +{likely} +{score:.2f}  ", row)


def test_the_best_rounds_weights_are_others(result: Result, folder: Path, tmp_path: Path) -> None:
    """Break it: ignore `best`."""
    other = simulate({**TINY, "output-dir": str(tmp_path), "num-server-rounds": 1}).run_dir
    run_dir = shutil.copytree(other, tmp_path / "copied")
    shutil.rmtree(run_dir / "best", ignore_errors=True)
    shutil.copytree(result.run_dir / "model", run_dir / "best")
    one = sorted(folder.iterdir())[0]
    assert predict(run_dir, [one], best=True) == predict(result.run_dir, [one])
    assert predict(run_dir, [one]) == predict(other, [one]) != predict(result.run_dir, [one])


def test_transparent_pixels_get_the_background_of_the_run(folder: Path, tmp_path: Path) -> None:
    keys = {**TINY, "output-dir": str(tmp_path), "num-server-rounds": 1}
    black = simulate(keys, data_background="black").run_dir
    clear, grey = tmp_path / "clear.png", tmp_path / "black.png"
    Image.new("RGBA", (28, 28), (255, 255, 255, 0)).save(clear)
    Image.new("L", (28, 28), 0).save(grey)
    one, other = predict(black, [clear, grey])
    assert one.probabilities == other.probabilities


def test_what_cannot_be_predicted_is_named(result: Result, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png.txt").write_text("no image")
    picture(1).save(tmp_path / "one.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "one.png").read_bytes()[:60])
    for name, message in {
        "nowhere.png": "does not exist",
        "empty": "has no image in it",
        "text.png.txt": "is no image that can be read",
        "cut.png": r"cut\.png' cannot be decoded",
    }.items():
        with pytest.raises(FedSplitError, match=message):
            predict(result.run_dir, [tmp_path / name])
    with pytest.raises(FedSplitError, match="not the directory of a run that has ended"):
        predict(tmp_path, [tmp_path / "one.png"])


@pytest.mark.parametrize("change", ["another order", "one less", "one more", "without names"])
def test_classes_of_another_run_are_refused(
    result: Result, folder: Path, tmp_path: Path, change: str
) -> None:
    """Break it: give the logits whatever names shards.json has, in its order."""
    run_dir = tmp_path / "run"
    shutil.copytree(result.run_dir, run_dir)
    kept = json.loads((run_dir / "shards.json").read_text())
    names, counts = kept["class_names"], kept["class_counts"]
    if change == "another order":
        names = names[::-1]
    elif change == "one less":
        names, counts = names[:-1], [row[:-1] for row in counts]
    else:
        names, counts = [*names, "more"], [[*row, 0] for row in counts]
    (run_dir / "shards.json").write_text(json.dumps({"class_names": names, "class_counts": counts}))
    said = "tells apart .* shards.json beside it has the classes"
    if change == "one more":
        said = "11 class names for a model of 10 logits"
    elif change == "without names":
        path = run_dir / "model" / "config.json"
        config = json.loads(path.read_text())
        names = {str(n): f"LABEL_{n}" for n in range(10)}
        config |= {"id2label": names, "label2id": {name: int(n) for n, name in names.items()}}
        path.write_text(json.dumps(config))
        said = "The model has 10 logits, and the shards.json of its run 11 classes"
    with pytest.raises(FedSplitError, match=said):
        predict(run_dir, [folder])


def test_a_broken_file_of_a_folder_is_named_with_a_remedy(
    result: Result, folder: Path, tmp_path: Path
) -> None:
    """Break it: pass on the remedy of a run, which this command does not have."""
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    (mixed / "020-broken.png").write_bytes(picture(1).tobytes()[:3])
    with pytest.raises(FedSplitError) as caught:
        predict(result.run_dir, [mixed])
    assert str(caught.value).startswith(f"'{mixed / '020-broken.png'}' cannot be decoded (")
    assert str(caught.value).endswith("Repair it, or give the paths of the other images.")
    assert "on-error" not in str(caught.value)


@pytest.mark.timeout(60)
def test_files_of_strangers_are_refused_by_name(result: Result, tmp_path: Path) -> None:
    """Break it: open a pipe or an EPS as an image, or trust shards.json."""
    (tmp_path / "a.png").write_bytes(EPS)
    with pytest.raises(FedSplitError) as caught:
        predict(result.run_dir, [tmp_path / "a.png"])
    said = str(caught.value)
    assert said.startswith(f"'{tmp_path / 'a.png'}' is EPS, whatever its name says")
    assert said.endswith("Convert it, for example to PNG, or give the paths of the other images.")
    (tmp_path / "pipes").mkdir()
    pipe(tmp_path / "pipes" / "1.png")
    for path in (tmp_path / "pipes" / "1.png", tmp_path / "pipes"):
        with pytest.raises(FedSplitError, match=r"pipes/1\.png' is a named pipe \(FIFO\)"):
            predict(result.run_dir, [path])
    picture(1, size=28).save(tmp_path / "b.png")
    run = tmp_path / "run"
    shutil.copytree(result.run_dir, run)
    (run / "shards.json").write_text('{"class_names": 3, "class_counts": []}')
    with pytest.raises(FedSplitError, match=r"shards\.json', class_names is 3"):
        predict(run, [tmp_path / "b.png"])


def test_the_limit_of_pixels_is_that_of_the_run(result: Result, tmp_path: Path) -> None:
    """Break it: predict without the run's data.max-pixels."""
    run = tmp_path / "run"
    shutil.copytree(result.run_dir, run)
    text = (run / "config.toml").read_text()
    assert "max-pixels = 50000000" in text
    (run / "config.toml").write_text(text.replace("max-pixels = 50000000", "max-pixels = 99"))
    picture(1, size=10).save(tmp_path / "a.png")
    with pytest.raises(FedSplitError, match=r"a\.png' is too large: 10 x 10 = 100 pixels"):
        predict(run, [tmp_path / "a.png"])


def test_a_model_of_one_clients_bottom_is_told(
    result: Result, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: let client 0 speak for all."""
    one = sorted(folder.iterdir())[:1]
    predict(result.run_dir, one)
    assert "client 0" not in caplog.text
    keys = {**TINY, "output-dir": str(tmp_path), "num-server-rounds": 1}
    predict(simulate(keys, strategy="sflv3").run_dir, one)
    assert "the model with that of client 0" in caplog.text


def _matrix(run: Result, folder: Path) -> list[list[int]]:
    """Return the images by their class, which their names say, and the predicted one."""
    names = json.loads((run.run_dir / "shards.json").read_text())["class_names"]
    matrix = [[0] * len(names) for _ in names]
    for prediction in predict(run.run_dir, [folder]):
        label = int(prediction.path.stem[4:])
        matrix[label][names.index(next(iter(prediction.probabilities)))] += 1
    return matrix


def test_a_functions_model_gets_images_as_in_its_run(folder: Path, tmp_path: Path) -> None:
    """Its bottom does not say what images it takes. Break it: ask the bottom alone."""
    keys = {**TINY, "output-dir": str(tmp_path), "num-server-rounds": 1}
    first = simulate(keys, model_name="tests.models.own:make")
    assert _matrix(first, folder) == first.summary["confusion_matrix"]
    saved = {"model.name": str(first.run_dir / "model"), "model.trust": True}
    second = simulate({**keys, **saved, "run-name": "second"})
    assert second.summary["initial_accuracy"] == first.summary["final_accuracy"]
    assert _matrix(second, folder) == second.summary["confusion_matrix"]
