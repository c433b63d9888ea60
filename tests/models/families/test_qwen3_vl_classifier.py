"""Qwen3-VL's vision tower as a classifier: in parts it is the whole, at every cut."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedsplit.boundary import TensorSpec
from fedsplit.errors import ModelError
from fedsplit.models import (
    InputSpec,
    SplitModel,
    input_spec,
    load_model,
    load_split_model,
    num_stages,
    resolve,
    save_model,
    smashed_spec,
    split_model,
    stage_names,
)
from fedsplit.results.flops import part_flops
from fedsplit.seeding import seeded_init
from tests.models.families.qwen3_vl_toys import (
    NUM_LABELS,
    State,
    assert_close,
    classifier_of,
    gradients,
    images_of,
    packed_of,
    pairs,
    whole_of,
)


def as_inputs(given: Tensor | State) -> State:
    return {"pixel_values": given} if isinstance(given, Tensor) else given


def test_stage_names() -> None:
    blocks = [f"vision block {number}" for number in range(1, 5)]
    assert stage_names(classifier_of()) == ("patch embedding", *blocks, "head")


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("draw", [images_of, packed_of])
def test_outputs_loss_and_gradients_at_every_pair_of_cuts(draw: Any, train: bool) -> None:  # noqa: ANN401
    """Break it: add the learned positions a second time in a block."""
    model = classifier_of().train(train)
    given, labels = draw()
    whole = copy.deepcopy(model)
    output = whole(**as_inputs(given), labels=labels)
    torch.autograd.backward(output.loss)
    expected = gradients([whole])
    assert output.logits.std() > 0.05
    for points in pairs(model):
        parts = split_model(model, points)
        model.zero_grad()
        logits = parts.top(parts.trunk(parts.bottom(given)))
        loss = cross_entropy(logits, labels)
        torch.autograd.backward(loss)
        assert (logits - output.logits).abs().max() <= 1e-5, points
        assert (loss - output.loss).abs() <= 1e-5, points
        assert_close(gradients(parts), expected, 1e-5)


def test_images_do_not_attend_to_each_other() -> None:
    """Break it: give the blocks one segment for the whole pack."""
    model = classifier_of()
    images, _ = images_of()
    for cut in range(1, num_stages(model)):
        bottom, trunk, top = split_model(model, [cut])
        together = top(trunk(bottom(images)))
        alone = torch.cat([top(trunk(bottom(image[None]))) for image in images])
        assert (together - alone).abs().max() <= 1e-5
        others = torch.cat([images[:1], images[1:] + 1])
        assert torch.equal(top(trunk(bottom(others)))[0], together[0])
    assert (top(trunk(bottom(others))) - together)[1:].abs().max() > 1e-3


def test_merge_save_and_load(tmp_path: Path) -> None:
    model = classifier_of()
    images, _ = images_of()
    merged: Any = copy.deepcopy(split_model(model, [1, 3])).merge()
    assert type(merged) is type(model)
    assert_same_bits(merged.state_dict(), model.state_dict())
    assert torch.equal(merged(images).logits, model(images).logits)
    save_model(merged, InputSpec(3, 16, 16, (0.5,) * 3, (0.5,) * 3), tmp_path)
    assert_same_bits(load_model(str(tmp_path)).state_dict(), model.state_dict())
    loaded, found = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found.values())
    assert torch.equal(loaded(images).logits, model(images).logits)
    assert input_spec(str(tmp_path)) == InputSpec(3, 16, 16, (0.5,) * 3, (0.5,) * 3)
    with seeded_init(1, "head"):
        other: Any = load_model(str(tmp_path), num_labels=7)
    assert other.classifier.weight.shape == (7, 24)


def test_the_tower_of_a_whole_checkpoint(tmp_path: Path) -> None:
    """Break it: leave the language model's keys out of the family's `ignored_keys`."""
    whole = whole_of()
    whole.save_pretrained(tmp_path)
    with seeded_init(1, "head"):
        bottom, trunk, top = load_split_model(str(tmp_path), [1], num_labels=NUM_LABELS)
    weights = {**bottom.state_dict(), **trunk.state_dict(), **top.state_dict()}
    stored = whole.state_dict()
    assert {name: w for name, w in weights.items() if name not in stored}.keys() == {
        "classifier.weight",
        "classifier.bias",
    }
    assert all(torch.equal(stored[name], w) for name, w in weights.items() if name in stored)
    given, _ = packed_of()
    grid, visual = given["image_grid_thw"], whole.model.visual
    tokens = visual(given["pixel_values"], grid).pooler_output
    means = [t.mean(dim=0) for t in tokens.split((grid.prod(dim=1) // 4).tolist())]
    expected = torch.nn.functional.linear(
        torch.stack(means), weights["classifier.weight"], weights["classifier.bias"]
    )
    assert (top(trunk(bottom(given))) - expected).abs().max() <= 1e-5
    assert input_spec(str(tmp_path)).height == 16


def test_emptied_parts_compute_once_they_have_weights(tmp_path: Path) -> None:
    """Break it: take the angles from buffers of the tower, which no weights bring."""
    model = classifier_of()
    model.save_pretrained(tmp_path)
    images, _ = images_of()
    split = split_model(model, [2])
    names: Any = ("bottom", "trunk", "top")
    parts = SplitModel(*(resolve(tmp_path).empty_part(name, [2]) for name in names))
    for part, weights in zip(parts, split, strict=True):
        part.load_state_dict(weights.state_dict())
    assert torch.equal(parts.top(parts.trunk(parts.bottom(images))), model(images).logits)
    merged: Any = parts.merge()
    assert torch.equal(merged(images).logits, model(images).logits)


def test_what_crosses_at_every_cut() -> None:
    model = classifier_of()
    spec = InputSpec(3, 16, 24, (0.5,) * 3, (0.5,) * 3)
    for cut in range(1, num_stages(model)):
        assert smashed_spec(split_model(model, [cut]).bottom, spec) == {
            "hidden": TensorSpec((4 * 6, 32), torch.float32),
            "grid_thw": TensorSpec((1, 3), torch.int64, (1, 4, 6)),
        }


def test_flops_of_the_parts_do_not_depend_on_the_cut() -> None:
    model = classifier_of()
    counts = [part_flops(split_model(model, points), (3, 16, 16)) for points in ([1], [3, 4])]
    assert sum(counts[0]) == sum(counts[1])
    assert counts[0][0] == 2 * 2 * 16 * (3 * 2 * 4 * 4) * 32  # forward and the weights' gradient


@pytest.mark.parametrize("shape", [(3, 12, 16), (3, 16, 20), (1, 16, 16), (3, 0, 16)])
def test_images_that_do_not_divide_are_refused(shape: tuple[int, ...]) -> None:
    bottom = split_model(classifier_of(), [1]).bottom
    with pytest.raises(ModelError, match=f"{'x'.join(map(str, shape))}.*multiples of 8"):
        bottom(torch.zeros(2, *shape))


def test_attention_of_the_merged_model_and_half_precision() -> None:
    model = classifier_of()
    images, _ = images_of()
    expected = model(images).logits
    merged: Any = split_model(model, [2]).merge()
    merged.set_attn_implementation("eager")
    parts = split_model(merged, [2])
    assert all(
        block.attn.config._attn_implementation == "eager" for block in merged.model.visual.blocks
    )
    assert (parts.top(parts.trunk(parts.bottom(images))) - expected).abs().max() <= 1e-5
    half = merged.to(torch.bfloat16)
    state: Any = parts.bottom(images)
    assert state["hidden"].dtype == torch.bfloat16
    assert torch.equal(parts.top(parts.trunk(state)), half(images).logits)


def assert_same_bits(one: State, other: State) -> None:
    assert list(one) == list(other)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
