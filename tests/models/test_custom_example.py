"""The design that fedsplit grew from: its quickstart, and parts written around a ViT frontend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from fedsplit import BaseBottomModel, BaseTopModel, BaseTrunkModel, SplitModel, load_split_model
from tests.conftest import Run

CONFIG = ViTConfig(
    image_size=28,
    patch_size=7,
    num_channels=1,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    id2label={label: str(label) for label in range(10)},
)


class ViTBottom(BaseBottomModel):
    """The frontend alone: patches, class token and positions."""

    def __init__(self, vit: ViTForImageClassification) -> None:
        super().__init__()
        self.embeddings = vit.vit.embeddings

    def forward(self, pixel_values: Tensor) -> Tensor:
        hidden: Tensor = self.embeddings(pixel_values)
        return hidden


class ViTTrunk(BaseTrunkModel):
    """All encoder blocks."""

    def __init__(self, vit: ViTForImageClassification) -> None:
        super().__init__()
        self.layers: nn.ModuleList = vit.vit.layers

    def forward(self, hidden_states: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class ViTTop(BaseTopModel):
    """The last norm and the classifier, at the class token."""

    def __init__(self, vit: ViTForImageClassification) -> None:
        super().__init__()
        self.layernorm = vit.vit.layernorm
        self.classifier = vit.classifier

    def forward(self, hidden_states: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.layernorm(hidden_states)[:, 0])
        return logits


def make(num_labels: int = 10) -> SplitModel:
    vit = ViTForImageClassification(CONFIG)
    return SplitModel(ViTBottom(vit), ViTTrunk(vit), ViTTop(vit))


def test_the_quickstart() -> None:
    bottom, trunk, top = load_split_model("vit-nano", split_points=[1], num_labels=10)
    images = torch.randn(2, 1, 28, 28)
    hidden = bottom(images)
    hidden.retain_grad()
    logits = top(trunk(hidden))
    torch.autograd.backward(logits.sum())
    assert hidden.shape == (2, 17, 64)
    assert logits.shape == (2, 10)
    assert hidden.grad is not None
    assert all(weight.grad is not None for weight in bottom.parameters())


def test_parts_of_your_own_are_the_model_that_they_were_taken_from() -> None:
    vit = ViTForImageClassification(CONFIG)
    parts = ViTBottom(vit), ViTTrunk(vit), ViTTop(vit)
    images = torch.randn(3, 1, 28, 28)
    bottom, trunk, top = parts
    assert torch.equal(top(trunk(bottom(images))), vit(images).logits)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sflv1", "sflv2", "sflv3", "parallel", "sequential", "full"])
def test_they_train_in_every_strategy(run: Run, strategy: str) -> None:
    result = run(strategy=strategy, model_name=f"{__name__}:make", num_server_rounds=1)
    (row,) = result.rounds
    assert row["failed_clients"] == []
    assert row["train_loss"] < 3.0
    assert result.summary["client_parameters"] > 0
