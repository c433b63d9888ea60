"""The two models that are measured, as configs of runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedsplit import Config
from fedsplit.models.builtin import BUILTIN_MODELS
from fedsplit.models.loading import input_spec
from fedsplit.preparation import prepare

NUM_CLIENTS = 10


@dataclass(frozen=True)
class Size:
    """A model.

    Attributes
    ----------
    name : str
        The name in the table.
    model : str
        A built-in name, or the directory of a config.
    """

    name: str
    model: str

    def config(self, cut_layer: int) -> Config:
        """Return the run whose steps are measured. Its images are resized for the model."""
        return Config.load(
            {
                "strategy": "sflv1",
                "num-clients": NUM_CLIENTS,
                "model.name": self.model,
                "model.pretrained": False,
                "split.cut-layer": cut_layer,
            }
        )

    def smashed(self, cut_layer: int) -> Tensor:
        """Return smashed data of one full batch, such as [B, N+1, D]."""
        config = self.config(cut_layer)
        bottom = prepare(config).model.bottom
        spec = input_spec(self.model)
        images = torch.zeros(config.batch_size, spec.channels, spec.height, spec.width)
        with torch.no_grad():
            smashed: Tensor = bottom(images)
        return smashed


def sizes(folder: Path) -> list[Size]:
    """Return both models. The config of the larger one is written to a folder."""
    nano = BUILTIN_MODELS["vit-nano"]
    larger: dict[str, Any] = {
        **nano,
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "image_size": 32,
        "patch_size": 4,
    }
    (folder / "config.json").write_text(json.dumps(larger), encoding="utf-8")
    return [
        Size("vit-nano (width 64, 4 blocks, 17 tokens)", "vit-nano"),
        Size("width 192, 6 blocks, 65 tokens", str(folder)),
    ]
