"""Models on images of another size than they were trained on."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsplit import load_split_model
from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models.checkpoint import save_model
from fedsplit.models.loading import input_spec, load_model
from fedsplit.models.split import split_model, stage_names
from fedsplit.seeding import generator, seeded_init
from tests.models.families.library_zoo import disturbed
from tests.models.families.zoo import NAMES, images_of, make

OWN_SIZE = ("vit-nano", "qwen3-vl vision")  # vit-nano has no checkpoint, Qwen3-VL any grid
INTERPOLATED = [name for name in NAMES if name not in OWN_SIZE]


@pytest.fixture(params=INTERPOLATED)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[nn.Module, Path]:
    """A small model, and the directory in which it is saved."""
    model = square(request.param)
    save_model(model, images_of(model), tmp_path)
    return model, tmp_path


def square(name: str) -> nn.Module:
    """Make a model of `zoo` whose absolute positions are a square."""
    model: Any = make(name)
    if name in ("vit", "deit", "deit-teacher"):
        model.config.image_size = 16
        with seeded_init(3, name):
            return disturbed(type(model)(model.config), name).eval()
    return make(name)


def larger_size(model: nn.Module) -> int:
    """Return a size of twice as many patches to a side, or one that fits both sides."""
    spec = images_of(model)
    return 2 * max(spec.height, spec.width)


def images_at(spec: InputSpec, size: int) -> Tensor:
    return torch.randn(2, spec.channels, size, size, generator=generator(5, "images"))


def whole(model: Any, images: Tensor) -> Tensor:  # noqa: ANN401
    """Return what the model's own library computes for images of another size."""
    library = model.__module__.partition(".")[0]
    if library in ("timm", "torchvision"):
        logits: Tensor = {"timm": of_timm, "torchvision": of_torchvision}[library](model, images)
    elif "dino" in model.__module__ or "siglip2" in model.__module__:  # any size as it is
        logits = model(images).logits
    else:
        logits = model(images, interpolate_pos_encoding=True).logits
    return logits


def of_timm(model: Any, images: Tensor) -> Tensor:  # noqa: ANN401
    import timm.layers

    side = images.shape[-1] // model.patch_embed.patch_size[0]
    again: Any = copy.deepcopy(model)
    again.set_input_size(img_size=images.shape[-1])
    if model.pos_embed is not None:
        resample: Any = vars(timm.layers)["resample_abs_pos_embed"]
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        again.pos_embed.data = resample(
            model.pos_embed.data, [side, side], num_prefix_tokens=prefix
        )
    logits: Tensor = again(images)
    return logits


def of_torchvision(model: Any, images: Tensor) -> Tensor:  # noqa: ANN401
    if "swin" in model.__module__:  # takes every size as it is
        as_it_is: Tensor = model(images)
        return as_it_is
    module: Any = importlib.import_module("torchvision.models.vision_transformer")
    size = images.shape[-1]
    again = module.VisionTransformer(
        image_size=size,
        patch_size=model.patch_size,
        num_layers=len(model.encoder.layers),
        num_heads=2,
        hidden_dim=model.hidden_dim,
        mlp_dim=model.mlp_dim,
        num_classes=model.heads.head.out_features,
        representation_size=model.representation_size,
    )
    state = copy.deepcopy(model.state_dict())
    again.load_state_dict(module.interpolate_embeddings(size, model.patch_size, state))
    logits: Tensor = again.eval()(images)
    return logits


def test_the_parts_compute_what_the_library_computes_with_interpolated_positions(
    saved: tuple[nn.Module, Path],
) -> None:
    """Break it: let a family ignore the size, or let BEiT keep the size of its config."""
    model, directory = saved
    size = larger_size(model)
    images = images_at(images_of(model), size)
    expected = whole(model, images)
    for cut in range(1, len(stage_names(model)) - 1):
        bottom, trunk, top = load_split_model(directory, [cut], image_size=size)
        with torch.no_grad():
            assert torch.allclose(top(trunk(bottom(images))), expected, atol=2e-5)


def test_a_model_of_another_size_is_saved_and_loads_with_that_size(
    saved: tuple[nn.Module, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, directory = saved
    size = larger_size(model)
    images = images_at(images_of(model), size)
    resized = load_split_model(directory, [1], image_size=size)
    spec = input_spec(directory, image_size=size)
    assert (spec.height, spec.width) == (size, size)
    again = tmp_path_factory.mktemp("again")
    save_model(resized.merge(), spec, again)
    assert input_spec(again) == spec
    with torch.no_grad():
        bottom, trunk, top = resized
        expected = top(trunk(bottom(images)))
        bottom, trunk, top = load_split_model(again, [1])
        assert torch.equal(top(trunk(bottom(images))), expected)


def test_a_size_that_patches_do_not_fill_is_refused(saved: tuple[nn.Module, Path]) -> None:
    _, directory = saved
    with pytest.raises(ModelError, match=r"image-size = 41 is no multiple of \d+, .* Use \d+ or"):
        input_spec(directory, image_size=41)


def test_a_smaller_size_keeps_the_processors_other_steps(tmp_path: Path) -> None:
    model = make("dinov2")
    own = InputSpec(3, 224, 224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), resample=3, resize=256)
    save_model(model, own, tmp_path)
    spec = input_spec(tmp_path, image_size=56)
    assert (spec.height, spec.width, spec.resize) == (56, 56, 64)
    assert (spec.mean, spec.std, spec.resample) == (own.mean, own.std, own.resample)


def test_resized_to_height_and_width_before_the_crop() -> None:
    own = InputSpec(3, 100, 200, (0.5,) * 3, (0.5,) * 3, resize=(120, 240))
    assert own.at(50) == InputSpec(3, 50, 50, (0.5,) * 3, (0.5,) * 3, resize=(60, 60))


def test_a_builtin_model_has_as_many_positions_as_patches() -> None:
    bottom, _, _ = load_split_model("vit-nano", [1], image_size=56)
    assert bottom(torch.zeros(2, 1, 56, 56)).shape == (2, 65, 64)


def test_qwen_takes_whole_blocks_of_patches(tmp_path: Path) -> None:
    save_model(make("qwen3-vl vision"), images_of(make("qwen3-vl vision")), tmp_path)
    with pytest.raises(ModelError, match="no multiple of"):
        input_spec(tmp_path, image_size=41)


def test_a_function_of_the_users_takes_its_own_size_only() -> None:
    with pytest.raises(ModelError, match="family 'custom' take images of their own size only"):
        load_model("tests.models.own:make", image_size=32)


def test_without_a_size_a_model_refuses_other_images() -> None:
    """Nothing is interpolated that nobody asked for."""
    model = square("vit")
    bottom, _, _ = split_model(model, [1])
    with pytest.raises(ValueError, match="doesn't match model"):
        bottom(images_at(images_of(model), larger_size(model)))


def test_positions_that_are_not_square_are_refused(tmp_path: Path) -> None:
    save_model(make("vit"), images_of(make("vit")), tmp_path)
    with pytest.raises(ModelError, match=r"images of \d+x\d+, because .* square images only"):
        input_spec(tmp_path, image_size=32)
