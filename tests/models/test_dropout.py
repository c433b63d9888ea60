from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsplit.errors import ModelError
from fedsplit.models.dropout import dropout_probabilities


def test_dropout_above_0_is_found(vit_directory: Path, tmp_path: Path) -> None:
    assert dropout_probabilities("vit-nano") == {}
    config = json.loads((vit_directory / "config.json").read_text())
    changes = {"hidden_dropout_prob": 0.25, "attention_probs_dropout_prob": 0.0, "drop_path": 1}
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    assert dropout_probabilities(str(tmp_path)) == {"hidden_dropout_prob": 0.25, "drop_path": 1.0}


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="does not exist"):
        dropout_probabilities("./nowhere")
