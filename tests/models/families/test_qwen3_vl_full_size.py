"""The vision tower of Qwen3-VL 2B in its real size, with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedsplit.boundary import TensorSpec
from fedsplit.models import InputSpec, smashed_spec, split_model
from fedsplit.models.stages import Part
from fedsplit.seeding import generator
from tests.models.families.qwen3_vl_toys import across, send_back

VISION_2B = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "out_hidden_size": 2048,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [5, 11, 17],
}


def tower_2b() -> Any:  # noqa: ANN401
    """Return the classifier without a draw of its own, which would take longer than the test."""
    from transformers import Qwen3VLConfig

    from fedsplit.models.qwen3_vl_classifier import Qwen3VLForImageClassification

    config_class: Any = Qwen3VLConfig
    config = config_class(vision_config=VISION_2B, num_labels=10)
    with torch.device("meta"):
        model: Any = Qwen3VLForImageClassification(config)
    model.to_empty(device="cpu")
    draw = generator(1, "2b")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.uniform_(centre - 0.03, centre + 0.03, generator=draw)
    return model.eval()


@pytest.mark.slow
def test_cut_behind_the_patch_embedding_in_real_size() -> None:
    model = tower_2b()
    assert sum(parameter.numel() for parameter in model.parameters()) == 331_437_066
    draw = generator(2, "2b")
    images = torch.randn(2, 3, 64, 64, generator=draw)
    labels = torch.tensor([3, 8])
    output = model(images, labels=labels)
    torch.autograd.backward(output.loss)
    expected: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        expected[name], parameter.grad = parameter.grad, None
    bottom, trunk, top = split_model(model, [1])
    assert isinstance(trunk, Part)
    assert len(trunk.stages) == 24
    assert smashed_spec(bottom, InputSpec(3, 64, 64, (0.5,) * 3, (0.5,) * 3)) == {
        "hidden": TensorSpec((16, 1024), torch.float32),
        "grid_thw": TensorSpec((1, 3), torch.int64, (1, 4, 4)),
    }
    state: Any = bottom(images)
    received = across(state)
    logits = top(trunk(received))
    torch.autograd.backward(cross_entropy(logits, labels))
    send_back(state, received)
    assert output.logits.std() > 0.05
    assert (logits - output.logits).abs().max() <= 1e-5
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad - expected[name]).abs().max() <= 1e-5, name
