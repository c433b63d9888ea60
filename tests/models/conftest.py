"""A tiny random Hugging Face ViT on disk, and the models every equality is shown on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedsplit.models import load_model
from fedsplit.seeding import seeded_init


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices only get slower when threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def vit_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A three-channel ViT of 2 blocks, written by transformers itself."""
    from transformers import ViTConfig, ViTForImageClassification

    values: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "image_size": 16,
        "patch_size": 8,
        "num_channels": 3,
        "num_labels": 5,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    config = ViTConfig(**values)
    directory = tmp_path_factory.mktemp("tiny-vit")
    with seeded_init(7, "tiny"):
        ViTForImageClassification(config).save_pretrained(directory)
    return directory


@pytest.fixture(params=["vit-nano", "tiny"])
def model(request: pytest.FixtureRequest, vit_directory: Path) -> nn.Module:
    """A fresh whole model each time: vit-nano, and the tiny ViT loaded from its directory."""
    name = "vit-nano" if request.param == "vit-nano" else str(vit_directory)
    with seeded_init(3, "model"):
        whole = load_model(name)
    with torch.no_grad():
        for parameter in whole.parameters():
            # Biases start at 0 and norms at 1, where an exchange of two would not show.
            parameter.add_(_noise(parameter))
    return whole


def _noise(parameter: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(parameter.numel())
    return 0.02 * torch.randn(parameter.shape, generator=generator)
