from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fedsplit.models import load_model, load_split_model, split_model
from fedsplit.models.families.vit import stages


class OlderBlock(nn.Module):
    """As in transformers 4: the output is a tuple."""

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor]:
        return (hidden + 1,)


def test_blocks_are_found_where_older_transformers_has_them() -> None:
    encoder = SimpleNamespace(layer=nn.ModuleList([OlderBlock(), OlderBlock()]))
    model = SimpleNamespace(vit=SimpleNamespace(encoder=encoder))
    chain = stages(model)
    assert [stage.name for stage in chain] == ["embeddings", "block 1", "block 2", "head"]
    assert chain[2].paths == ("vit.encoder.layer.1",)
    output = chain[2].run(model, torch.zeros(2))
    assert isinstance(output, torch.Tensor)
    assert torch.equal(output, torch.ones(2))


def test_smashed_data_starts_with_the_class_token() -> None:
    bottom = load_split_model("vit-nano", [1]).bottom
    hidden = bottom(torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    weights = bottom.state_dict()
    token = (
        weights["vit.embeddings.cls_token"] + weights["vit.embeddings.position_embeddings"][:, :1]
    )
    assert hidden.shape == (2, 17, 64)
    assert torch.equal(hidden[:, :1], token.expand(2, 1, 64))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_either_attention_equals_the_whole(vit_directory: Path, attention: str) -> None:
    model = load_model(str(vit_directory))
    model.set_attn_implementation(attention)  # type: ignore[operator]
    parts = split_model(model, [1])
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    logits = parts.top(parts.trunk(parts.bottom(images)))
    assert (logits - model(images).logits).abs().max() <= 1e-6


def test_a_bfloat16_model_takes_float32_images() -> None:
    bottom, trunk, top = load_split_model("vit-nano", [1], dtype=torch.bfloat16)
    images = torch.ones(2, 1, 28, 28)
    whole = load_split_model("vit-nano", [1], dtype=torch.bfloat16)
    assert top(trunk(bottom(images))).dtype == torch.bfloat16
    assert whole.merge()(images).logits.dtype == torch.bfloat16
