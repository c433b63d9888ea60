from __future__ import annotations

from pathlib import Path

from fedsplit import Config
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
    card = model_card(summary, config, ["a", "b"], best=False)
    assert "/home" not in card
    assert 'data.name = "cats"' in card
    assert Path("/home/me/models/vit").name in card
