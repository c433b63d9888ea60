"""DINOv3: what transformers publishes becomes the backbone of our classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models import load_model, smashed_spec, split_model
from tests.models.families.zoo import batch, make


@pytest.fixture
def backbone() -> Any:  # noqa: ANN401 - of transformers
    """What hub checkpoints of DINOv3 are."""
    model: Any = transformers.DINOv3ViTModel
    return model(make("dinov3").config).eval()


def test_a_published_backbone_gives_its_own_tokens(backbone: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """Break it: swap rows and columns in the angles."""
    backbone.save_pretrained(tmp_path)
    model: Any = load_model(tmp_path, num_labels=3)
    images, _ = batch(model)
    expected = backbone(images).last_hidden_state
    assert torch.equal(model.dinov3(images).last_hidden_state, expected)
    logits = model.classifier(torch.cat([expected[:, 0], expected[:, 4:].mean(dim=1)], dim=1))
    assert torch.equal(model(images).logits, logits)


def test_the_trained_backbone_loads_in_transformers(tmp_path: Path) -> None:
    model: Any = make("dinov3")
    model.save_pretrained(tmp_path)
    loader: Any = transformers.DINOv3ViTModel
    loaded, found = loader.from_pretrained(
        tmp_path, key_mapping={r"^dinov3\.": ""}, output_loading_info=True
    )
    assert not found["missing_keys"]
    images, _ = batch(model)
    expected = model.dinov3(images).last_hidden_state
    assert torch.equal(loaded(images).last_hidden_state, expected)


def test_positions_are_the_same_in_training(backbone: Any) -> None:  # noqa: ANN401
    """Break it: keep the rotary embedding of transformers, which draws in training."""
    model: Any = make("dinov3")
    images, _ = batch(model)
    assert torch.equal(model(images).logits, model.train()(images).logits)
    first, again = (backbone.train()(images).last_hidden_state for _ in range(2))
    assert not torch.equal(first, again)


def test_images_of_another_size_are_refused() -> None:
    """Break it: leave out the check, and the angles turn the wrong tokens."""
    bottom = split_model(make("dinov3"), [1]).bottom
    other = InputSpec(3, 24, 24, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ModelError, match=r"24x24.* model \(16x24\)\. Set model\.image-size"):
        smashed_spec(bottom, other)
