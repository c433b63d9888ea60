"""The whole Qwen3-VL: in parts it is the whole, at every cut and with all that must cross."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsplit.errors import ModelError
from fedsplit.models import (
    SplitModel,
    join_parts,
    load_model,
    load_split_model,
    num_stages,
    split_model,
    stage_names,
)
from tests.models.families.qwen3_vl_toys import (
    State,
    across,
    assert_close,
    gradients,
    pairs,
    send_back,
    texts_of,
    whole_of,
)
from tests.models.families.steps import assert_same_training, assert_trains_in

VISION = ["hidden", "grid_thw", "input_ids", "attention_mask", "mm_token_type_ids"]
TEXT = ["hidden", "position_ids", "attention_mask"]
# What crosses a cut after so many stages: no more than later stages use.
CROSSES = {
    1: VISION,
    2: [*VISION, "deepstack_0"],
    3: [*VISION, "deepstack_0", "deepstack_1"],
    4: [*VISION, "deepstack_0", "deepstack_1", "deepstack_2"],
    5: [*VISION, "deepstack_0", "deepstack_1", "deepstack_2"],
    6: ["merged", *VISION[1:], "deepstack_0", "deepstack_1", "deepstack_2"],
    7: [*TEXT, "deepstack_0", "deepstack_1", "deepstack_2", "image_mask"],
    8: [*TEXT, "deepstack_1", "deepstack_2", "image_mask"],
    9: [*TEXT, "deepstack_2", "image_mask"],
    10: TEXT,
    11: TEXT,
}


def loss_of(model: Any, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: ANN401
    loss: Tensor = model.loss_function(logits=logits, labels=labels, vocab_size=60)
    return loss


def test_stage_names() -> None:
    vision = [f"vision block {number}" for number in range(1, 5)]
    language = [f"language block {number}" for number in range(1, 5)]
    assert stage_names(whole_of()) == (
        *("patch embedding", *vision, "merger", "token embedding", *language, "head"),
    )


@pytest.mark.parametrize(("tied", "train"), [(False, False), (True, True)])
def test_outputs_loss_and_gradients_at_every_pair_of_cuts(tied: bool, train: bool) -> None:
    """Break it: add a feature of DeepStack one block too late, or leave one out of the state."""
    model = whole_of(tied=tied).train(train)
    inputs, labels = texts_of()
    whole = copy.deepcopy(model)
    output = whole(**inputs, labels=labels)
    torch.autograd.backward(output.loss)
    expected = gradients([whole])
    assert output.logits.std() > 0.05
    for points in pairs(model):
        parts = split_model(model, points)
        model.zero_grad()
        logits = parts.top(parts.trunk(parts.bottom(inputs)))
        loss = loss_of(model, logits, labels)
        torch.autograd.backward(loss)
        assert (logits - output.logits).abs().max() <= 1e-5, points
        assert (loss - output.loss).abs() <= 1e-5, points
        found = gradients(parts)
        if tied:  # one parameter of two names, the second of which the whole does not list
            shared = found["model.language_model.embed_tokens.weight"]
            assert torch.equal(found.pop("lm_head.weight", shared), shared)
        assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("left_out", ["attention_mask", None])
def test_what_crosses_and_what_comes_back(left_out: str | None) -> None:
    """Break it: keep what the patch embedding got, or a feature that has been added."""
    model = whole_of(tied=False)
    inputs, labels = texts_of()
    inputs.pop(left_out or "", None)
    whole = copy.deepcopy(model)
    output = whole(**inputs, labels=labels)
    torch.autograd.backward(output.loss)
    assert list(CROSSES) == list(range(1, num_stages(model)))
    for cut, names in CROSSES.items():
        parts = copy.deepcopy(split_model(model, [cut]))
        state: Any = parts.bottom(inputs)
        assert sorted(state) == sorted(set(names) - {left_out}), cut
        received = across(state)
        loss = loss_of(model, parts.server_part()(received), labels)
        torch.autograd.backward(loss)
        send_back(state, received)
        assert (loss - output.loss).abs() <= 1e-5
        assert_close(gradients(parts), gradients([whole]), 1e-5)


def test_the_rows_of_a_batch_do_not_see_each_other() -> None:
    """Break it: give the vision blocks one segment for all images."""
    model = whole_of()
    inputs, _ = texts_of()
    parts = split_model(model, [3, 7])
    logits = parts.top(parts.trunk(parts.bottom(inputs)))
    other = dict(inputs, pixel_values=inputs["pixel_values"].clone())
    other["pixel_values"][28:] += 1  # the third image, which is the second row's
    changed = parts.top(parts.trunk(parts.bottom(other)))
    assert torch.equal(changed[[0, 2]], logits[[0, 2]])
    assert (changed[1] - logits[1]).abs().max() > 1e-3
    assert (logits - model(**inputs).logits).abs().max() <= 1e-5


def test_weights_after_twenty_steps_across_a_detached_cut() -> None:
    """Break it: send back no gradient for a feature of DeepStack."""
    model = whole_of()
    # From 7 on the embedding and the output layer are on two sides: one parameter anyway.
    splits = [copy.deepcopy(split_model(model, [cut])) for cut in CROSSES]
    assert_same_training(model, splits, texts_of, partial(loss_of, model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_asked_for_is_what_computes(dtype: torch.dtype, tmp_path: Path) -> None:
    """Break it: leave the merged features in the dtype of the vision tower's arithmetic."""
    model = whole_of()
    model.save_pretrained(tmp_path)
    inputs, labels = texts_of()
    assert_trains_in(dtype, str(tmp_path), inputs, labels, partial(loss_of, model))


@pytest.mark.parametrize("tied", [False, True])
def test_merge_is_bit_identical_and_loads_in_plain_transformers(tmp_path: Path, tied: bool) -> None:
    model = whole_of(tied=tied)
    inputs, _ = texts_of()
    logits = model(**inputs).logits
    expected = model.state_dict()
    merged: Any = copy.deepcopy(split_model(model, [3, 8])).merge()
    assert type(merged) is type(model)
    assert_same_bits(merged.state_dict(), expected)
    assert (merged.lm_head.weight is merged.model.language_model.embed_tokens.weight) is tied
    merged.save_pretrained(tmp_path)
    loaded, found = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found.values())
    assert torch.equal(loaded(**inputs).logits, logits)
    assert_same_bits(load_model(str(tmp_path)).state_dict(), expected)
    bottom, trunk, top = load_split_model(str(tmp_path), [1])
    assert (top(trunk(bottom(inputs))) - logits).abs().max() <= 1e-5


def test_merge_ties_equal_copies_and_refuses_different_ones() -> None:
    """Break it: graft the parts and leave it at that."""
    model = whole_of()
    parts = SplitModel(*(copy.deepcopy(part) for part in split_model(model, [7])))
    names = "model.language_model.embed_tokens.weight", "lm_head.weight"
    assert parts.bottom.get_parameter(names[0]) is not parts.top.get_parameter(names[1])
    merged: Any = parts.merge()
    assert merged.get_parameter(names[0]) is merged.get_parameter(names[1])
    parts = SplitModel(*(copy.deepcopy(part) for part in split_model(model, [7])))
    with torch.no_grad():
        parts.top.get_parameter(names[1])[3, 2] += 0.25
    with pytest.raises(ModelError, match=rf"{names[0]} and {names[1]}.*by up to 0\.25.*apart"):
        parts.merge()


def test_joined_neighbours_compute_the_same() -> None:
    model = whole_of()
    inputs, _ = texts_of()
    parts = split_model(model, [2, 8])
    assert (join_parts(*parts)(inputs) - model(**inputs).logits).abs().max() <= 1e-5


def test_inputs_that_cannot_be_split_are_refused() -> None:
    model = whole_of()
    bottom, trunk, _ = split_model(model, [1])
    inputs, _ = texts_of()
    text_only = {n: inputs[n] for n in ("input_ids", "attention_mask", "mm_token_type_ids")}
    for wrong in (text_only, {**inputs, "pixel_values_videos": inputs["pixel_values"]}):
        with pytest.raises(ModelError, match=r"got attention_mask, .* Give it a dict of input_ids"):
            bottom(wrong)
    with pytest.raises(ModelError, match="got Tensor"):
        bottom(inputs["pixel_values"])
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == 57, 9)
    with pytest.raises(ModelError, match=r"0 image tokens \(id 57\).* 9 merged features"):
        trunk(bottom(inputs))


def assert_same_bits(one: State, other: State) -> None:
    assert list(one) == list(other)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
