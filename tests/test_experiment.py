from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedsplit import Config
from fedsplit.experiment import Experiment
from fedsplit.preparation import prepare
from fedsplit.split.server import Purpose


def _experiment(tiny: dict[str, object], lines: list[str], *, split: bool) -> Experiment:
    config = Config.load(tiny, {"run-name": "one"})
    return Experiment(
        config=config,
        prepared=prepare(config),
        split=split,
        class_counts={0: [3] * 10, 1: [1] * 10},
        engine="test",
        log=lines.append,
    )


def test_clients_get_the_bottom_or_the_whole(tiny: dict[str, object], tmp_path: Path) -> None:
    bottom = _experiment(tiny, [], split=True).initial_state()
    whole = _experiment({**tiny, "output-dir": str(tmp_path / "b")}, [], split=False)
    assert {name.split(".")[1] for name in bottom} == {"embeddings"}
    assert set(bottom) < set(whole.initial_state())


def test_scores_are_of_the_weights_given(tiny: dict[str, object]) -> None:
    lines: list[str] = []
    experiment = _experiment(tiny, lines, split=False)
    state = {name: torch.zeros_like(tensor) for name, tensor in experiment.initial_state().items()}
    state["classifier.bias"][3] = 5.0  # always class 3, of ten equal classes

    first = experiment.evaluate(0, [experiment.initial_state()])
    scores = experiment.evaluate(1, [state])
    assert scores["accuracy"] == pytest.approx(0.1)
    assert scores != first
    experiment.show_progress(1, 2, Purpose.EVALUATE)
    outcome = experiment.finish()

    assert outcome.rounds[0]["test_accuracy"] == pytest.approx(0.1)
    assert outcome.summary["initial_loss"] == first["loss"]
    assert (outcome.summary["num_clients"], outcome.summary["cut_layer"]) == (2, None)
    assert outcome.model.merge().state_dict()["classifier.bias"][3] == 5.0
    path = str(Path(str(tiny["output-dir"])) / "one")
    assert lines[0] == f"Run directory: {path}"
    assert lines[-1].endswith(path)
