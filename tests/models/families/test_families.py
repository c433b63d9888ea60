"""Every family: the parts equal the whole, at every cut and pair of cuts."""

from __future__ import annotations

import copy
import pickle
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from fedsplit.models import (
    load_model,
    load_split_model,
    num_stages,
    save_model,
    smashed_spec,
    split_model,
    stage_names,
)
from fedsplit.models.registry import family_of
from fedsplit.models.trainable import Lora, train_only
from fedsplit.results.flops import count_parameters, part_flops
from tests.models.families.steps import (
    assert_same_step,
    assert_same_training,
    assert_trains_in,
    joined_step,
    logits_of,
    named,
    whole_step,
)
from tests.models.families.zoo import NAMES, TRANSFORMERS, batch, images_of, make


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return make(request.param)


@pytest.fixture(params=TRANSFORMERS)
def of_transformers(request: pytest.FixtureRequest) -> nn.Module:
    return make(request.param)


def cuts(model: nn.Module) -> range:
    return range(1, num_stages(model))


@pytest.mark.parametrize("train", [False, True])
def test_outputs_loss_and_gradients_at_every_pair_of_cuts(model: nn.Module, train: bool) -> None:
    """Break it: let a head take the next token, or a block leave out its bias."""
    model.train(train)
    images, labels = batch(model)
    whole = whole_step(copy.deepcopy(model), images, labels)
    assert whole.image_gradient.abs().max() > 1e-4
    for points in combinations_with_replacement(cuts(model), 2):
        parts = split_model(model, points)
        assert all(part.training is train for part in parts)
        assert_same_step(joined_step(parts, images, labels), whole)


def test_every_weight_that_trains_gets_a_gradient(model: nn.Module) -> None:
    """The others are the family's `unused_weights`, and frozen.

    Break it: leave out `unused_weights` of a family.
    """
    names = {name for name, _ in model.named_parameters()}
    gradients = whole_step(copy.deepcopy(model), *batch(model)).gradients
    unused = {name for name in names if name.startswith(family_of(model).unused_weights)}
    assert names - gradients.keys() == unused
    for cut in cuts(model):
        parts = copy.deepcopy(split_model(model, [cut]))
        train_only(parts, "all", cut_layer=cut, lora=Lora())
        trained = {n for part in parts for n, p in part.named_parameters() if p.requires_grad}
        assert trained == names - unused


def test_a_merged_model_has_the_same_bits(model: nn.Module) -> None:
    """Break it: leave the pooler out of the paths of a head."""
    images, _ = batch(model)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for cut in cuts(model):
        merged = copy.deepcopy(split_model(model, [cut])).merge()
        assert type(merged) is type(model)
        assert list(merged.state_dict()) == list(expected)
        assert all(torch.equal(t, expected[name]) for name, t in merged.state_dict().items())
        assert torch.equal(logits_of(merged(images)), logits_of(model(images)))


def test_weights_after_twenty_steps_across_a_detached_cut(model: nn.Module) -> None:
    """Break it: detach one tensor of a state in a stage."""
    splits = [copy.deepcopy(split_model(model, [cut])) for cut in cuts(model)]
    assert_same_training(model, splits, lambda step: batch(model, step))


def test_a_saved_merged_model_loads_again(of_transformers: nn.Module, tmp_path: Path) -> None:
    """Break it: choose a family by its model_type alone, or leave out its `ignored_keys`."""
    model = of_transformers
    images, _ = batch(model)
    spec = images_of(model)
    save_model(copy.deepcopy(split_model(model, [2])).merge(), spec, tmp_path)
    loader: Any = transformers.AutoModelForImageClassification
    loaded, found = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found.values())
    assert type(loaded) is type(model)
    assert torch.equal(loaded(images).logits, model(images).logits)
    again = load_model(str(tmp_path))
    assert type(again) is type(model)
    assert torch.equal(again(images).logits, model(images).logits)


def test_the_saved_processor_gives_the_images_that_the_model_takes(
    of_transformers: nn.Module, tmp_path: Path
) -> None:
    """Break it: name DeiTImageProcessor or CLIPImageProcessor, which crop to 224 x 224."""
    model = of_transformers
    spec = images_of(model)
    save_model(model, spec, tmp_path)
    processor: Any = transformers.AutoImageProcessor
    image = torch.randint(0, 256, (3, 50, 40), dtype=torch.uint8)
    values = processor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, spec.height, spec.width)


def test_the_spec_of_the_smashed_data_at_every_cut(model: nn.Module) -> None:
    """Break it: return the bias table without a row for each example."""
    images, _ = batch(model, size=3)
    for cut in cuts(model):
        bottom = split_model(model, [cut]).bottom
        spec = smashed_spec(bottom, images_of(model))
        smashed = named(bottom(images))
        assert list(spec) == list(smashed)
        for name, tensor in smashed.items():
            assert spec[name].shape_for(3) == tensor.shape
            assert spec[name].dtype == tensor.dtype


def test_flops_are_counted_and_do_not_depend_on_the_cut(model: nn.Module) -> None:
    """Break it: have a stage compute what its state says, such as `state.tolist()`."""
    spec = images_of(model)
    shape = [spec.channels, spec.height, spec.width]
    first, second = (split_model(model, [cut]) for cut in (1, 2))
    assert sum(part_flops(first, shape)) == sum(part_flops(second, shape)) > 50_000
    assert sum(map(count_parameters, second)) == count_parameters(model)


def test_parts_survive_pickling_and_a_deep_copy(model: nn.Module) -> None:
    """Break it: bind a lambda, or a block itself, in a stage."""
    images, _ = batch(model)
    for parts in (copy.deepcopy(split_model(model, [2])), split_model(model, [2])):
        bottom, trunk, top = pickle.loads(pickle.dumps(tuple(parts)))
        assert torch.equal(top(trunk(bottom(images))), logits_of(model(images)))


def test_a_bfloat16_model_takes_float32_images(model: nn.Module) -> None:
    """Break it: leave out the cast in a stage 0."""
    images, _ = batch(model)
    bottom, trunk, top = split_model(model.to(torch.bfloat16), [2])
    expected = logits_of(model(images.to(torch.bfloat16)))
    assert (top(trunk(bottom(images))) - expected).abs().max() <= 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_and_device_asked_for_are_what_comes(
    model: nn.Module, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Break it: read the tensors of a checkpoint as they are, or cast no images."""
    save_model(model, images_of(model), tmp_path)
    for device in ("cpu", "meta"):
        for pretrained in (True, False):
            parts = load_split_model(
                str(tmp_path), [1, 2], dtype=dtype, device=device, pretrained=pretrained
            )
            weights = [tensor for part in parts for tensor in part.state_dict().values()]
            assert {t.dtype for t in weights if t.is_floating_point()} == {dtype}
            assert {tensor.device.type for tensor in weights} == {device}
    parts = load_split_model(str(tmp_path), [1, 2], dtype=dtype)
    stored = {**model.state_dict()}
    for part in parts:
        for name, tensor in part.state_dict().items():
            assert torch.equal(tensor, stored[name].to(tensor.dtype)), name
    assert_trains_in(dtype, str(tmp_path), *batch(model))


def test_eager_attention_equals_the_whole(of_transformers: nn.Module) -> None:
    """Break it: turn the sign of the bias of BEiT."""
    model: Any = of_transformers
    model.set_attn_implementation("eager")
    images, _ = batch(model)
    bottom, trunk, top = split_model(model, [2])
    assert (top(trunk(bottom(images))) - model(images).logits).abs().max() <= 1e-5


def test_the_names_of_the_stages() -> None:
    """Break it: number the blocks of each resolution of Swin anew."""
    two_blocks = ("embeddings", "block 1", "block 2")
    others = {"beit-shared", "swin", "swin-absolute", "swinv2", "qwen3-vl vision", "vit-nano"}
    others |= {"torchvision-swin", "torchvision-swin-v2"}
    for name in set(NAMES) - others:
        assert stage_names(make(name)) == (*two_blocks, "head")
    assert stage_names(make("swin")) == (*two_blocks, "downsample 1", "block 3", "head")


def test_the_state_of_swin_is_a_map() -> None:
    """Break it: downsample to h // 2."""
    images, _ = batch(make("swin"))
    shapes = [tuple(split_model(make("swin"), [c]).bottom(images).shape) for c in range(1, 6)]
    assert shapes == [(2, 7, 6, 16)] * 3 + [(2, 4, 3, 32)] * 2
