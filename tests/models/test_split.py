"""The split equals the whole: outputs, loss, gradients and weights, at every cut."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.models import (
    Part,
    SplitModel,
    join_parts,
    load_model,
    load_split_model,
    num_stages,
    save_model,
    split_model,
    stage_names,
)
from fedsplit.models.loading import input_spec
from fedsplit.seeding import generator, seeded_init

STEPS = 20


def batch(model: nn.Module, step: int = 0, size: int = 4) -> tuple[Tensor, Tensor]:
    config: Any = model.config
    draw = generator(5, "batch", step)
    shape = (size, config.num_channels, config.image_size, config.image_size)
    images = torch.randn(shape, generator=draw)
    return images, torch.randint(0, config.num_labels, (size,), generator=draw)


def test_the_parts_share_the_models_parameters(model: nn.Module) -> None:
    parts = split_model(model, [1])
    own = dict(model.named_parameters())
    shared = {name: p for part in parts for name, p in part.named_parameters()}
    assert shared.keys() == own.keys()
    assert all(shared[name] is own[name] for name in own)


@pytest.mark.parametrize("points", [[1], [1, 1], [2, 3]])
def test_merge_is_bit_identical_and_of_the_same_class(model: nn.Module, points: list[int]) -> None:
    images, _ = batch(model)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(images).logits
    for parts in (split_model(model, points), copy.deepcopy(split_model(model, points))):
        merged = parts.merge()
        assert type(merged) is type(model)
        assert list(merged.state_dict()) == list(expected)
        assert all(torch.equal(merged.state_dict()[name], expected[name]) for name in expected)
        assert torch.equal(merged(images).logits, logits)
        own = {name: p for part in parts for name, p in part.named_parameters()}
        assert all(own[name] is parameter for name, parameter in merged.named_parameters())
        assert merged.training is model.training


def test_merge_of_parts_loaded_in_different_places() -> None:
    with seeded_init(1, "a"):
        client = load_split_model("vit-nano", [2])
    with seeded_init(1, "b"):
        server = load_split_model("vit-nano", [2, 3])
    merged = SplitModel(client.bottom, server.trunk, server.top).merge()
    weights = merged.state_dict()
    assert torch.equal(
        weights["vit.embeddings.cls_token"],
        client.bottom.state_dict()["vit.embeddings.cls_token"],
    )
    assert torch.equal(weights["classifier.weight"], server.top.state_dict()["classifier.weight"])


def test_merge_after_another_dtype() -> None:
    parts = load_split_model("vit-nano", [1])
    for part in parts:
        part.to(torch.bfloat16)
    merged = parts.merge()
    assert {tensor.dtype for tensor in merged.state_dict().values()} == {torch.bfloat16}
    images = torch.ones(2, 1, 28, 28)
    assert torch.equal(merged(images).logits, parts.top(parts.trunk(parts.bottom(images))))


def test_the_merged_model_loads_in_plain_transformers(model: nn.Module, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, ViTForImageClassification

    images, _ = batch(model)
    merged = copy.deepcopy(split_model(model, [2])).merge()
    save_model(merged, input_spec("vit-nano"), tmp_path)
    loading: Any = ViTForImageClassification
    loaded, found = loading.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found.values())
    assert torch.equal(loaded(images).logits, model.eval()(images).logits)
    processor: Any = AutoImageProcessor
    assert tuple(processor.from_pretrained(tmp_path).image_mean) == (0.5,)
    again = load_model(str(tmp_path)).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def test_attention_can_be_changed_on_the_merged_model(model: nn.Module) -> None:
    merged = split_model(model, [1]).merge()
    merged.set_attn_implementation("eager")  # type: ignore[operator]
    blocks = [module for module in merged.modules() if hasattr(module, "num_attention_heads")]
    assert len(blocks) >= 2
    assert all(block.config._attn_implementation == "eager" for block in blocks)  # type: ignore[union-attr]


def test_server_part_is_trunk_and_top() -> None:
    parts = load_split_model("vit-nano", [2, 4])
    server = parts.server_part()
    assert (server.start, server.end) == (2, 6)
    hidden = torch.linspace(-1, 1, 2 * 17 * 64).reshape(2, 17, 64)
    assert torch.equal(server(hidden), parts.top(parts.trunk(hidden)))
    own = dict(server.named_parameters())
    assert all(
        own[name] is parameter
        for part in (parts.trunk, parts.top)
        for name, parameter in part.named_parameters()
    )


def test_stage_names() -> None:
    model = load_model("vit-nano")
    names = ("embeddings", "block 1", "block 2", "block 3", "block 4", "head")
    assert stage_names(model) == names
    assert num_stages(model) == 6


@pytest.mark.parametrize(
    "points", [[0], [6], [-1], [], [1, 2, 3], [3, 2], [1, 6], [1.0], ["1"], [True], 1, "1"]
)
def test_split_points_outside_the_model_are_refused(points: list[int]) -> None:
    with pytest.raises(ModelError) as caught:
        split_model(load_model("vit-nano"), points)
    text = str(caught.value)
    assert repr(points) in text
    assert "1 <= a <= b <= 5" in text
    assert "0 embeddings, 1 block 1, 2 block 2, 3 block 3, 4 block 4, 5 head" in text


def test_parts_that_are_no_neighbours_are_refused(vit_directory: Path) -> None:
    parts = load_split_model("vit-nano", [1])
    with pytest.raises(ModelError, match=r"\[0, 1\).*\[5, 6\)"):
        join_parts(parts.bottom, parts.top)
    assert isinstance(parts.top, Part)
    with pytest.raises(ModelError, match="not a whole model of 6 stages"):
        SplitModel(parts.trunk, parts.top, Part(parts.top.chain, 6, 6, [])).merge()
    other = load_split_model(str(vit_directory), [1])
    with pytest.raises(ModelError, match="one architecture"):
        SplitModel(parts.bottom, other.trunk, other.top).merge()
    with pytest.raises(ModelError, match="no parts"):
        join_parts()
