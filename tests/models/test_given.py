from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsplit import SplitModel, load_split_model, split_model
from fedsplit.errors import ModelError
from fedsplit.models import InputSpec, Stage, load_model, register_family, registry
from fedsplit.models.checkpoint import save_model
from fedsplit.models.custom import JoinedModel
from fedsplit.models.given import GivenModel
from fedsplit.models.resolved import resolve
from fedsplit.objects import Given, holding
from tests.models.own import make, make_tied

IMAGES = torch.linspace(-1, 1, 2 * 28 * 28).reshape(2, 1, 28, 28)
SPEC = InputSpec(1, 28, 28, (0.5,), (0.5,))


class Plain(nn.Module):
    """Of a family that a user registers, and of no library."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(784, 8), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stem(images.flatten(1)))
        return logits


@pytest.fixture
def plain() -> Iterator[Plain]:
    register_family(
        "plain",
        model_class=Plain,
        stages=lambda model: [
            Stage("stem", ("stem",), lambda root, images: root.stem(images.flatten(1))),
            Stage("head", ("head",), lambda root, hidden: root.head(hidden)),
        ],
    )
    yield Plain()
    del registry._families["plain"]


def _same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_a_run_gets_copies_with_the_weights_and_without_gradients() -> None:
    """Break it: return the module itself, or a copy in its own mode."""
    module: Any = load_model("vit-nano").train()
    module.classifier.weight.grad = torch.ones_like(module.classifier.weight)
    before = copy.deepcopy(module.state_dict())
    given = GivenModel(module)
    copied: Any = given.load()
    assert _same(copied, module)
    assert not copied.training
    assert all(parameter.grad is None for parameter in copied.parameters())
    copied.classifier.weight.data.zero_()
    copied.config.id2label = {0: "changed"}
    assert module.training
    assert module.classifier.weight.grad is not None
    assert module.config.id2label != {0: "changed"}
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_it_is_the_model_of_its_family() -> None:
    module = load_model("vit-nano")
    given = GivenModel(module)
    assert given.name == "object:ViTForImageClassification"
    assert given.family().name == "vit"
    assert given.input_spec() == resolve("vit-nano").input_spec()
    named, ours = resolve("vit-nano").parts_skeleton([2]), given.parts_skeleton([2])
    for one, other in zip(named, ours, strict=True):
        assert one.state_dict().keys() == other.state_dict().keys()
        assert all(weight.is_meta for weight in other.parameters())
    bottom, trunk, top = given.load_parts([2])
    assert torch.equal(top(trunk(bottom(IMAGES))), module.eval()(IMAGES).logits)


def test_its_own_input_spec_counts() -> None:
    module: Any = load_model("vit-nano")
    module.input_spec = InputSpec(1, 28, 28, (0.1,), (0.3,))
    assert GivenModel(module).input_spec() == InputSpec(1, 28, 28, (0.1,), (0.3,))


def test_weights_take_the_dtype_of_the_run() -> None:
    module = load_model("vit-nano").to(torch.bfloat16)
    given = GivenModel(module)
    assert {p.dtype for p in given.load().parameters()} == {torch.float32}
    assert {p.dtype for p in given.load(dtype=torch.float16).parameters()} == {torch.float16}
    assert {p.dtype for p in given.skeleton().parameters()} == {torch.float32}
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}


def test_three_modules_are_a_model() -> None:
    parts = make()
    for given in (GivenModel(parts), GivenModel(tuple(parts)), GivenModel(parts.merge())):
        assert given.name == "object:SplitModel"
        bottom, trunk, top = given.load_parts([1])
        assert torch.equal(top(trunk(bottom(IMAGES))), parts.merge().eval()(IMAGES))
    kept = given.skeleton().get_buffer("top.scale")
    assert kept.item() == 0.5  # it is in no state dict, so clients need its value


def test_weights_that_are_tied_within_a_part_stay_tied() -> None:
    shared = nn.Linear(64, 64)
    bottom = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), shared, nn.ReLU(), shared)
    given = GivenModel(SplitModel(bottom, nn.ReLU(), nn.Linear(64, 10)).merge().train())
    copied: Any = given.load_parts([1]).bottom
    assert copied.bottom[2].weight is copied.bottom[4].weight
    assert copied.bottom[2].weight is not shared.weight
    empty: Any = given.empty_part("bottom", [1])
    assert empty.bottom[2].weight is empty.bottom[4].weight


def test_parts_of_a_split_model_are_cut_where_they_are() -> None:
    """Break it: forget where the parts were cut; the run would cut them elsewhere, silently."""
    parts = load_split_model("vit-nano", [2])
    given = GivenModel(parts)
    assert given.name == "object:ViTForImageClassification"
    assert _same(given.load(), parts.merge())
    given.parts_skeleton([2])
    with pytest.raises(ModelError, match=r"cut before the stages 2 and 5, and.*split_cut_layer=2"):
        given.parts_skeleton([1])
    three = split_model(load_model("vit-nano"), [1, 4])
    with pytest.raises(ModelError, match=r"stages 1 and 4, and.*before 1 and 5"):
        GivenModel(three).parts_skeleton([1])
    GivenModel(three).parts_skeleton([1, 4])
    GivenModel(three.merge()).parts_skeleton([1])


def test_own_modules_around_a_part_are_three_modules() -> None:
    bottom = load_split_model("vit-nano", [1]).bottom
    mixed = (bottom, nn.Flatten(), nn.Linear(17 * 64, 10))
    split = GivenModel(mixed).load_parts([1])
    assert split.top(split.trunk(split.bottom(IMAGES))).shape == (2, 10)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Linear(3, 3), "class Linear belongs to no known family.*register_family"),
        ((nn.Flatten(), nn.Linear(2, 2)), r"model= is of the type tuple with 2 items\. Give"),
        ("vit-nano", r"model= is of the type str\. Give a model of a registered family"),
        ((nn.Flatten(), None, nn.Linear(2, 2)), "The trunk of model= is of the type NoneType"),
        (make_tied(), "model= has a bottom and a trunk that share the parameter.*of its own"),
        ((nn.Flatten(), nn.LazyLinear(3), nn.Linear(3, 2)), "'trunk.weight' of model= has no sh"),
    ],
)
def test_what_is_no_model_is_refused(model: object, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        GivenModel(model)


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(ModelError, match="is on the meta device: it holds no values"):
        GivenModel(load_model("vit-nano").to("meta"))


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    module: Any = load_model("vit-nano")
    module.remembered = module(IMAGES).logits
    with pytest.raises(ModelError, match=r"cannot be copied \(RuntimeError.*copy\.deepcopy"):
        GivenModel(module).load()


def test_it_is_found_by_its_name_while_its_run_goes_on() -> None:
    given = GivenModel(make())
    with holding([Given("model.name", given.name, given)]):
        assert resolve(given.name, run="a") is given
    given.release()
    with pytest.raises(ModelError, match="'object:SplitModel' has ended"):
        given.load()


def test_a_model_that_its_config_describes_is_saved_as_its_library_does(tmp_path: Path) -> None:
    module = load_model("vit-nano")
    save_model(GivenModel(module).load(), SPEC, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "vit"
    assert _same(load_model(str(tmp_path)), module)


def test_a_changed_head_is_saved_as_weights_alone(tmp_path: Path) -> None:
    """Its config would make another head. Break it: save what `save_pretrained` writes."""
    module: Any = load_model("vit-nano")
    module.classifier = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    given = GivenModel(module)
    parts = given.load_parts([1])
    assert torch.equal(parts.top(parts.trunk(parts.bottom(IMAGES))), module(IMAGES).logits)
    save_model(parts.merge(), SPEC, tmp_path)
    said = r"is made of modules that simulate\(\) was given.*'factory' in its config\.json"
    with pytest.raises(ModelError, match=said + r".*trust=True"):
        load_model(str(tmp_path))


def test_the_remedies_for_saved_weights_work(tmp_path: Path) -> None:
    """Those of the message: load the weights into the modules, or name a function."""
    from safetensors.torch import load_file

    parts = make()
    save_model(GivenModel(parts).load(), SPEC, tmp_path)
    again = make().merge()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert _same(again, parts.merge())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["factory"] == "object:SplitModel"
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "factory": "tests.models.own:make"}), encoding="utf-8"
    )
    found = load_model(str(tmp_path), trust=True)
    assert isinstance(found, JoinedModel)
    assert _same(found, parts.merge())


def test_a_registered_class_of_no_library_is_a_model(plain: Plain, tmp_path: Path) -> None:
    given = GivenModel(plain)
    assert given.input_spec(lambda: (1, 28, 28)) == SPEC
    parts = given.load_parts([1])
    assert torch.equal(parts.top(parts.trunk(parts.bottom(IMAGES))), plain(IMAGES))
    save_model(parts.merge(), SPEC, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["factory"] == "object:Plain"


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_models_of_other_libraries_are_given_too(library: str, tmp_path: Path) -> None:
    name = {"torchvision": "torchvision:vit_b_32", "timm": "timm:vit_tiny_patch16_224"}[library]
    pytest.importorskip(library)
    module = load_model(name, pretrained=False, num_labels=3)
    given = GivenModel(module)
    assert given.input_spec().channels == 3
    copied = given.load()
    assert not vars(copied).get("factory")
    save_model(copied, given.input_spec(), tmp_path)
    assert _same(load_model(str(tmp_path)), module)
