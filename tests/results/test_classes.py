from __future__ import annotations

import pytest
import torch

from fedsplit import simulate
from fedsplit.results.classes import NO_CLASSES, class_scores
from tests.conftest import TINY, Run


def test_balanced_accuracy_is_the_mean_over_classes_with_images() -> None:
    """Break it: divide by all images, or count a class without images as 0."""
    scores = class_scores(torch.tensor([[9, 1, 0], [1, 1, 0], [0, 0, 0]]))
    assert scores["class_accuracy"] == [0.9, 0.5, None]
    assert scores["final_balanced_accuracy"] == pytest.approx(0.7)
    assert scores["confusion_matrix"] == [[9, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_a_large_matrix_is_not_recorded() -> None:
    scores = class_scores(torch.eye(101, dtype=torch.int64))
    assert scores["confusion_matrix"] is None
    assert scores["class_accuracy"] == [1.0] * 101


def test_nothing_is_said_without_a_score() -> None:
    assert class_scores(None) == NO_CLASSES


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("strategy", ["sflv2", "sflv3"])
def test_the_matrix_of_a_run_agrees_with_its_accuracy(run: Run, strategy: str) -> None:
    """In sflv3, each client has a model of its own, so each image counts once for each."""
    result = run(strategy=strategy)
    matrix = torch.tensor(result.summary["confusion_matrix"])
    times = TINY["num-clients"] if strategy == "sflv3" else 1
    assert matrix.sum() == 50 * times  # type: ignore[operator]
    accuracy = (matrix.diagonal().sum() / matrix.sum()).item()
    assert accuracy == pytest.approx(result.summary["final_accuracy"], abs=1e-6)
    assert result.rounds[-1]["test_balanced_accuracy"] == result.summary["final_balanced_accuracy"]


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_was_killed_after_its_last_round_has_the_classes_of_its_last_weights(
    run: Run,
) -> None:
    """Break it: score after the best round's weights were loaded, or not at all."""
    whole = run(again=True, strategy="sflv2", num_server_rounds=3)
    (whole.run_dir / "summary.json").unlink()
    again = simulate(resume=whole.run_dir)
    for key in NO_CLASSES:
        assert again.summary[key] == whole.summary[key] is not None
