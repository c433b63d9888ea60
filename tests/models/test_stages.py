from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from fedsplit.boundary import TensorSpec
from fedsplit.errors import ModelError
from fedsplit.models import (
    InputSpec,
    Part,
    Stage,
    input_spec,
    load_split_model,
    smashed_spec,
    split_model,
)
from fedsplit.models.stages import Chain, storage_free_copy

IMAGES = torch.linspace(-1, 1, 2 * 28 * 28).reshape(2, 1, 28, 28)


class Lone(nn.Module):
    """A model with a parameter that no submodule holds, and a nested block."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0]))
        self.inner = nn.ModuleDict({"line": nn.Linear(3, 3)})


def lone_chain(model: Lone) -> Chain:
    stages = (
        Stage("scale", ("scale",), lambda root, state: {"a": state * root.scale, "b": state}),
        Stage(
            "line", ("inner.line",), lambda root, state: root.inner.line(state["a"] + state["b"])
        ),
    )
    return Chain(stages, storage_free_copy(model))


def test_keys_are_the_whole_models() -> None:
    bottom, trunk, top = load_split_model("vit-nano", [1])
    assert sorted(bottom.state_dict()) == [
        "vit.embeddings.cls_token",
        "vit.embeddings.patch_embeddings.projection.bias",
        "vit.embeddings.patch_embeddings.projection.weight",
        "vit.embeddings.position_embeddings",
    ]
    assert sorted(top.state_dict()) == [
        "classifier.bias",
        "classifier.weight",
        "vit.layernorm.bias",
        "vit.layernorm.weight",
    ]
    assert len(trunk.state_dict()) == 4 * 16
    assert "vit.layers.3.mlp.fc1.weight" in trunk.state_dict()


def test_a_deep_copy_is_independent() -> None:
    part = load_split_model("vit-nano", [2]).bottom
    before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    expected = part(IMAGES)
    twin = copy.deepcopy(part)
    assert torch.equal(twin(IMAGES), expected)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    twin(IMAGES).square().sum().backward()
    optimizer.step()
    for name, tensor in part.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert not torch.equal(tensor, twin.state_dict()[name]), name
    assert torch.equal(part(IMAGES), expected)
    assert (twin(IMAGES) - expected).abs().max() > 1e-3
    assert all(parameter.grad is None for parameter in part.parameters())


def test_a_part_of_lone_parameters_and_named_tensors_copies_and_empties() -> None:
    model = Lone()
    chain = lone_chain(model)
    part = Part(chain, 0, 2, [model, model])
    assert sorted(part.state_dict()) == ["inner.line.bias", "inner.line.weight", "scale"]
    vector = torch.tensor([[1.0, 2.0, 3.0]])
    expected = model.inner["line"](3 * vector)
    assert torch.allclose(part(vector), expected)
    weights = part.state_dict()
    empty = copy.deepcopy(part).to("meta").to_empty(device="cpu")
    empty.load_state_dict(weights)
    assert torch.equal(empty(vector), part(vector))
    with torch.no_grad():
        empty.get_parameter("scale").fill_(0.0)
    assert torch.allclose(part(vector), expected)
    assert smashed_spec(Part(chain, 0, 1, [model]), InputSpec(1, 1, 1, (0.5,), (0.5,))) == {
        "a": TensorSpec((1, 1, 1, 1), torch.float32),
        "b": TensorSpec((1, 1, 1, 1), torch.float32),
    }


def test_to_empty_then_load_gives_the_same_part() -> None:
    part = load_split_model("vit-nano", [2]).bottom
    twin = copy.deepcopy(part).to("meta").to_empty(device="cpu")
    twin.load_state_dict(part.state_dict())
    assert torch.equal(twin(IMAGES), part(IMAGES))


def test_dtype_and_mode_reach_the_modules() -> None:
    part = load_split_model("vit-nano", [2]).bottom
    assert not part.training
    part.train()
    assert all(module.training for module in part.modules())
    part.eval()
    assert not any(module.training for module in part.modules())
    assert part.to(torch.bfloat16)(IMAGES).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_its_dtype_and_passes_the_weights_own(dtype: torch.dtype) -> None:
    """Break it: return what was computed as it is, or forget it in a copy."""
    split = load_split_model("vit-nano", [2])
    hidden, part = split.bottom(IMAGES).detach(), split.server_part()
    plain = part(hidden)
    with torch.autocast("cpu", dtype):
        expected = part(hidden)
    assert expected.dtype == dtype
    part.autocast = dtype
    for cast in (part, copy.deepcopy(part)):
        logits = cast(hidden)
        assert logits.dtype == torch.float32
        assert torch.equal(logits, expected.float())
        assert 0 < (logits - plain).abs().max() < 0.1
        torch.autograd.backward(logits.sum())
        assert {p.grad.dtype for p in cast.parameters() if p.grad is not None} == {torch.float32}


def test_an_empty_part_is_the_identity() -> None:
    part = load_split_model("vit-nano", [5]).trunk
    hidden = torch.ones(2, 17, 64)
    assert part(hidden) is hidden
    assert list(part.parameters()) == []
    assert smashed_is_batch_first(part)


def smashed_is_batch_first(part: nn.Module) -> bool:
    return smashed_spec(part, InputSpec(1, 2, 2, (0.5,), (0.5,)))["hidden"].shape == (1, 1, 2, 2)


def test_a_part_survives_pickling() -> None:
    split = load_split_model("vit-nano", [1])
    bottom, trunk, top = pickle.loads(pickle.dumps(tuple(split)))
    expected: Tensor = split.top(split.trunk(split.bottom(IMAGES)))
    assert torch.equal(top(trunk(bottom(IMAGES))), expected)


@pytest.mark.parametrize("cut", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_smashed_spec_of_vit_nano(cut: int, dtype: torch.dtype) -> None:
    bottom = load_split_model("vit-nano", [cut], dtype=dtype).bottom
    assert smashed_spec(bottom, input_spec("vit-nano")) == {
        "hidden": TensorSpec((1, 17, 64), dtype)
    }
    assert {parameter.device.type for parameter in bottom.parameters()} == {"cpu"}


def test_smashed_spec_refuses_images_of_another_size() -> None:
    bottom = load_split_model("vit-nano", [1]).bottom
    with pytest.raises(ModelError, match="3x32x32"):
        smashed_spec(bottom, InputSpec(3, 32, 32, (0.5,) * 3, (0.5,) * 3))


def test_a_storage_free_copy_has_the_shapes_and_no_storage(model: nn.Module) -> None:
    shell = storage_free_copy(model)
    assert {name: tensor.shape for name, tensor in shell.state_dict().items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    assert all(tensor.is_meta for tensor in shell.state_dict().values())
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_the_printed_form_names_the_stages(model: nn.Module) -> None:
    assert "stages [0, 2): embeddings, block 1" in repr(split_model(model, [2]).bottom)
