from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsplit.errors import ModelError
from fedsplit.models import resolve


def test_dropout_above_0_is_found(vit_directory: Path, tmp_path: Path) -> None:
    assert resolve("vit-nano").dropout_probabilities() == {}
    config = json.loads((vit_directory / "config.json").read_text())
    changes = {"hidden_dropout_prob": 0.25, "attention_probs_dropout_prob": 0.0, "drop_path": 1}
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    assert resolve(str(tmp_path)).dropout_probabilities() == {
        "hidden_dropout_prob": 0.25,
        "drop_path": 1.0,
    }


def test_dropout_of_a_nested_config_is_found_where_the_model_holds_it(tmp_path: Path) -> None:
    """Break it: look at the outermost config alone, or at the text model's too."""
    tower = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = {
        "model_type": "clip",
        "vision_config": {**tower, "attention_dropout": 0.5},
        "text_config": {**tower, "attention_dropout": 0.25},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert resolve(str(tmp_path)).dropout_probabilities() == {
        "vision_config.attention_dropout": 0.5
    }


def test_dropped_paths_are_found(tmp_path: Path) -> None:
    """Break it: look for the word dropout."""
    for model_type in ("beit", "swin"):  # whose default it is
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert resolve(str(tmp_path)).dropout_probabilities() == {"drop_path_rate": 0.1}


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="does not exist"):
        resolve("./nowhere").dropout_probabilities()
