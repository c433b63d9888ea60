"""ViTs of torchvision and timm: the parts equal the whole, at every cut and pair of cuts."""

from __future__ import annotations

import copy
import pickle
from itertools import combinations_with_replacement

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedsplit.errors import ModelError
from fedsplit.models import num_stages, smashed_spec, split_model, stage_names
from fedsplit.results.flops import count_parameters, part_flops
from tests.models.families.library_zoo import (
    SPEC,
    ZOO,
    batch,
    make,
    whole_step,
)
from tests.models.families.zoo import STEPS, assert_close, gradients_of, split_step


@pytest.fixture(params=ZOO)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(name: str) -> nn.Module:
    return make(name)


def cuts(model: nn.Module) -> range:
    return range(1, num_stages(model))


@pytest.mark.parametrize("train", [False, True])
def test_outputs_loss_and_gradients_at_every_pair_of_cuts(model: nn.Module, train: bool) -> None:
    """Break it: add the positions to the patches alone, or take token 1 in a head."""
    model.train(train)
    images, labels = batch()
    whole = whole_step(copy.deepcopy(model), images, labels)
    assert whole.image_gradient.abs().max() > 1e-4
    assert whole.gradients.keys() == dict(model.named_parameters()).keys()
    for points in combinations_with_replacement(cuts(model), 2):
        parts = split_model(model, points)
        model.zero_grad()
        leaf = images.clone().requires_grad_()
        logits = parts.top(parts.trunk(parts.bottom(leaf)))
        loss = cross_entropy(logits, labels)
        torch.autograd.backward(loss)
        assert leaf.grad is not None
        assert_close(
            {"logits": logits, "loss": loss, "images": leaf.grad},
            {"logits": whole.logits, "loss": whole.loss, "images": whole.image_gradient},
        )
        assert_close(gradients_of(*parts), whole.gradients)


def test_weights_after_twenty_steps_across_a_detached_cut(model: nn.Module) -> None:
    """Break it: detach a token in stage 0."""
    splits = [copy.deepcopy(split_model(model, [cut])) for cut in cuts(model)]
    sides = [(parts.bottom, parts.server_part()) for parts in splits]
    modules = [model, *(part for side in sides for part in side)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in modules]
    initial = {name: tensor.clone() for name, tensor in model.named_parameters()}
    for step in range(STEPS):
        images, labels = batch(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        torch.autograd.backward(loss)
        for bottom, server in sides:
            assert (split_step(bottom, server, images, labels) - loss).abs() <= 1e-5
        for optimizer in optimizers:
            optimizer.step()
    for bottom, server in sides:
        assert_close({**bottom.state_dict(), **server.state_dict()}, model.state_dict())
    assert max((p - initial[n]).abs().max() for n, p in model.named_parameters()) > 0.01


def test_a_merged_model_has_the_same_bits(model: nn.Module) -> None:
    """Break it: leave a norm out of the paths of a stage."""
    images, _ = batch()
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for cut in cuts(model):
        merged = copy.deepcopy(split_model(model, [cut])).merge()
        assert type(merged) is type(model)
        assert list(merged.state_dict()) == list(expected)
        assert all(torch.equal(t, expected[name]) for name, t in merged.state_dict().items())
        assert torch.equal(merged(images), model(images))


def test_smashed_data_and_flops_without_storage(name: str, model: nn.Module) -> None:
    """Break it: call the model itself in a stage."""
    num_tokens = ZOO[name][2] + 4
    for cut in cuts(model):
        bottom = split_model(model, [cut]).bottom
        (spec,) = smashed_spec(bottom, SPEC).values()
        assert spec.shape_for(3) == (3, num_tokens, 16)
        assert tuple(bottom(batch(size=3)[0]).shape) == (3, num_tokens, 16)
    first, second = (split_model(model, [cut]) for cut in (1, 2))
    shape = [SPEC.channels, SPEC.height, SPEC.width]
    assert sum(part_flops(first, shape)) == sum(part_flops(second, shape)) > 50_000
    assert sum(map(count_parameters, second)) == count_parameters(model)


def test_parts_survive_pickling(model: nn.Module) -> None:
    """Break it: bind a lambda, or a block itself, in a stage."""
    images, _ = batch()
    bottom, trunk, top = pickle.loads(pickle.dumps(tuple(split_model(model, [2]))))
    assert torch.equal(top(trunk(bottom(images))), model(images))


def test_a_bfloat16_model_takes_float32_images(model: nn.Module) -> None:
    """Break it: leave out the cast in a stage 0."""
    images, _ = batch()
    bottom, trunk, top = split_model(model.to(torch.bfloat16), [2])
    expected = model(images.to(torch.bfloat16))
    assert bottom(images).dtype == torch.bfloat16
    assert (top(trunk(bottom(images))) - expected).abs().max() <= 0.05


def test_the_names_of_the_stages(model: nn.Module) -> None:
    assert stage_names(model) == ("embeddings", "block 1", "block 2", "head")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dynamic_img_size": True}, "images of any size"),
        ({"patch_drop_rate": 0.5}, "drops patches"),
        ({"global_pool": ""}, "does not pool"),
        ({"depth": 0}, "no blocks"),
    ],
)
def test_what_stages_do_not_compute_is_refused(changes: dict[str, object], reason: str) -> None:
    """Break it: leave one of the checks out."""
    with pytest.raises(ModelError, match=rf"VisionTransformer of timm .*{reason}"):
        split_model(make("timm", **changes), [1])


def test_a_subclass_with_a_forward_of_its_own_is_refused() -> None:
    """Break it: look at the class's name alone."""
    deit = pytest.importorskip("timm.models.deit").VisionTransformerDistilled
    model = deit(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3)
    with pytest.raises(ModelError, match=r"VisionTransformerDistilled of timm has its own"):
        split_model(model, [1])


def test_a_convolutional_stem_is_refused() -> None:
    """Break it: split it, and its batch norms never agree."""
    module = pytest.importorskip("torchvision.models.vision_transformer")
    stem = [module.ConvStemConfig(out_channels=8, kernel_size=3, stride=8)]
    with pytest.raises(ModelError, match="convolutional stem"):
        split_model(make("torchvision", conv_stem_configs=stem), [1])
    with pytest.raises(ModelError, match="no blocks"):
        split_model(make("torchvision", num_layers=0), [1])
