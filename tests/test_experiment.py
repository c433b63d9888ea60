from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.figure
import pytest
import torch

from fedsplit import Config
from fedsplit.experiment import Experiment
from fedsplit.preparation import prepare
from fedsplit.results.last_process import LastProcess
from fedsplit.split.phases import Purpose
from strategies.clients import Clients


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said and noted."""
    found: list[str] = []
    monkeypatch.setattr("fedsplit.experiment.say", found.append)
    monkeypatch.setattr("fedsplit.experiment.note", found.append)
    return found


def _experiment(
    tiny: dict[str, object],
    *,
    split: bool,
    class_names: Sequence[str] = (),
    own: Sequence[int] = (),
) -> Experiment:
    strategy = "sflv1" if split else "full"
    config = Config.load(tiny, {"run-name": "one", "strategy": strategy})
    prepared = prepare(config)
    return Experiment(
        config=config,
        prepared=replace(prepared, class_names=tuple(class_names) or prepared.class_names),
        clients=Clients({0: 7, 1: 8}, {0: [3] * 10, 1: [1] * 10}, {}, {0: 4}, own),
        process=LastProcess("test"),
    )


@pytest.mark.parametrize(
    ("own", "said"),
    [((), "dirichlet"), ((0, 1), "own images"), ((1,), "dirichlet; own images: client 1")],
)
def test_the_summary_says_whose_images_no_partitioner_has_divided(
    tiny: dict[str, object], own: Sequence[int], said: str
) -> None:
    """Break it: name the partitioner of the config, whatever folders the sites read."""
    experiment = _experiment(tiny, split=False, own=own)
    assert experiment.recorder.finish()["partitioner"] == said
    experiment.close()


def test_the_sizes_of_all_splits_are_shown_and_in_the_summary(
    tiny: dict[str, object], lines: list[str]
) -> None:
    experiment = _experiment(tiny, split=True)
    assert "Images: 40 to train, 4 to validate, 50 to test" in lines
    assert "5,888 more are not used (data.max-train-samples)" in lines
    assert "950 more are not used (data.max-test-samples)" in lines
    summary = experiment.recorder.finish()
    sizes = [summary[f"num_{split}_examples"] for split in ("train", "validation", "test")]
    assert sizes == [40, 4, 50]


def test_clients_get_the_bottom_or_the_whole(tiny: dict[str, object], tmp_path: Path) -> None:
    bottom = _experiment(tiny, split=True).initial_state()
    whole = _experiment({**tiny, "output-dir": str(tmp_path / "b")}, split=False)
    assert {name.split(".")[1] for name in bottom} == {"embeddings"}
    assert set(bottom) < set(whole.initial_state())


def test_scores_are_of_the_weights_given(tiny: dict[str, object], lines: list[str]) -> None:
    experiment = _experiment(tiny, split=False)
    state = {name: torch.zeros_like(tensor) for name, tensor in experiment.initial_state().items()}
    state["classifier.bias"][3] = 5.0  # always class 3, of ten equal classes

    first = experiment.evaluate(0, [experiment.initial_state()])
    scores = experiment.evaluate(1, [state])
    assert scores["accuracy"] == pytest.approx(0.1)
    assert scores != first
    experiment.show_progress(1, 2, Purpose.EVALUATE)
    outcome = experiment.finish(experiment.model())

    assert outcome.rounds[0]["test_accuracy"] == pytest.approx(0.1)
    assert outcome.summary["initial_loss"] == first["loss"]
    assert (outcome.summary["num_clients"], outcome.summary["cut_layer"]) == (2, None)
    assert outcome.model.merge().state_dict()["classifier.bias"][3] == 5.0
    path = str(Path(str(tiny["output-dir"])) / "one")
    assert lines[0] == f"Run directory: {path}"
    assert lines[-1].endswith(path)


def test_any_class_names_can_be_drawn(
    tiny: dict[str, object], lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    names = ["$5", "a$b$c_", r"$\frac$", "猫", "שלום", "line\nbreak", "\udce9", "8", "9", "10"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _experiment(tiny, split=True, class_names=names)
    assert caplog.records == []
    directory = Path(str(tiny["output-dir"])) / "one"
    assert json.loads((directory / "shards.json").read_bytes())["class_names"] == names
    assert "line\ufffd" in lines[2]
    # directory, summary, names, clients, all, images, limits, small shards
    assert len(lines) == 1 + 1 + 1 + 2 + 1 + 1 + 2 + 0


def test_a_picture_that_cannot_be_drawn_is_a_warning(
    tiny: dict[str, object],
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    experiment = _experiment(tiny, split=False)
    experiment.evaluate(0, [experiment.initial_state()])
    experiment.evaluate(1, [experiment.initial_state()])
    outcome = experiment.finish(experiment.model())

    assert outcome.run_directory.summary_path.is_file()
    assert lines[-1].endswith(str(outcome.run_directory.path))
    rounds, shards = (record.getMessage() for record in caplog.records)
    assert "shards.png' cannot be drawn (OSError: disk full)" in shards
    assert "rounds.png' cannot be drawn (OSError: disk full)" in rounds
