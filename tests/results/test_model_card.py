from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit import Config, simulate
from fedsplit.results.model_card import model_card
from tests.conftest import Run
from tests.results.examples import a_row, a_summary


def test_a_saved_model_has_a_card(run: Run) -> None:
    """Break it: write the last round's accuracy beside the best round's weights."""
    result = run(num_server_rounds=3)
    summary = result.summary
    for folder, accuracy in (("model", "final_accuracy"), ("best", "best_accuracy")):
        card = (result.run_dir / folder / "README.md").read_text(encoding="utf-8")
        assert card.startswith("---\npipeline_tag: image-classification\n")
        assert f"Test accuracy: {summary[accuracy]:.4f} on {summary['num_test_examples']}" in card
        assert "num-server-rounds" not in card  # 3 is the default
        assert "batch-size = " in card
        assert str(result.run_dir.parent) not in card


def test_a_card_has_no_path_of_the_machine() -> None:
    """Break it: write the names as the config has them."""
    summary = a_summary([a_row(1)]) | {"model": "/home/me/models/vit", "dataset": "/home/me/cats"}
    config = Config.from_flat({"model.name": "/home/me/models/vit", "data.name": "/home/me/cats"})
    card = model_card(summary, config, ["a", "b"], a_row(1))
    assert "/home" not in card
    assert 'data.name = "cats"' in card
    assert Path("/home/me/models/vit").name in card


def test_names_of_classes_are_no_markup() -> None:
    """Break it: write them as they are; the Hub shows a card as Markdown with HTML."""
    names = ["<img src=x>", "[a](b)", "c\x1b[2J\nd"]
    card = model_card(a_summary([a_row(1)]), Config(), names, a_row(1))
    assert r"- Classes: 3 (\<img src=x\>, \[a\](b), c�\[2J d)" in card


@pytest.mark.usefixtures("undrawn")
def test_the_card_of_the_best_weights_is_about_their_own_round(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: write the summary's best round and accuracy, of which there is no checkpoint."""
    scores = iter([0.1, 0.9, 0.5, 0.4])  # before training, and after each round

    def scripted(_: object) -> dict[str, float]:
        return {"test_loss": 1.0, "test_accuracy": next(scores)}

    monkeypatch.setattr("fedsplit.experiment.round_scores", scripted)
    result = simulate(tiny, num_server_rounds=3, checkpoint_every=2)
    assert (result.summary["best_round"], result.summary["best_accuracy"]) == (1, 0.9)
    for folder, of in (("best", ("2 rounds", "0.5000")), ("model", ("3 rounds", "0.4000"))):
        card = (result.run_dir / folder / "README.md").read_text(encoding="utf-8")
        assert f", {of[0]}, seed" in card
        assert f"Test accuracy: {of[1]} on" in card


def test_the_card_of_client_0s_model_does_not_give_it_the_mean_of_all(run: Run) -> None:
    """Break it: write the accuracy as if it were that of the weights beside the card."""
    said = "the mean over all clients. Each keeps a bottom of its own, and this is the model with"
    for strategy in ("sflv1", "sflv3"):
        result = run(strategy=strategy)
        for folder in ("model", "best"):
            card = (result.run_dir / folder / "README.md").read_text(encoding="utf-8")
            assert (said in card) == (strategy == "sflv3")
