from __future__ import annotations

import pytest
import torch
from torch import nn

from fedsplit.errors import ModelError
from fedsplit.models import (
    Stage,
    load_model,
    register_family,
    split_model,
    stage_names,
)
from fedsplit.models.registry import family_of, family_of_config


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.head = nn.Linear(8, 2)


def own_stages(_: nn.Module) -> list[Stage]:
    return [
        Stage("stem", ("stem",), lambda root, images: root.stem(images)),
        Stage("head", ("head",), lambda root, hidden: root.head(hidden)),
    ]


def test_a_registered_architecture_splits_and_merges() -> None:
    register_family("own", model_class=Own, stages=own_stages)
    model = Own()
    parts = split_model(model, [1])
    images = torch.ones(3, 4)
    assert torch.equal(parts.top(parts.trunk(parts.bottom(images))), model.head(model.stem(images)))
    merged = parts.merge()
    assert isinstance(merged, Own)
    assert merged.stem.weight is model.stem.weight


def test_subclasses_belong_to_the_family() -> None:
    register_family("own", model_class=Own, stages=own_stages)

    class Child(Own):
        pass

    assert stage_names(Child()) == ("stem", "head")


def test_vit_is_found_by_object_and_by_config() -> None:
    model = load_model("vit-nano")
    assert family_of(model).name == "vit"
    assert family_of_config(model.config).name == "vit"
    assert family_of_config({"model_type": "vit"}).name == "vit"


def test_an_unknown_model_lists_the_known_families() -> None:
    with pytest.raises(ModelError, match=r"Linear belongs to no known family.*vit \(ViTFor"):
        split_model(nn.Linear(2, 2), [1])
    with pytest.raises(ModelError, match=r"model_type 'bert'.*vit \(ViTFor"):
        family_of_config({"model_type": "bert"})
    with pytest.raises(ModelError, match="model_type None"):
        family_of_config({})


def test_a_library_that_is_not_installed_is_named() -> None:
    family = register_family("far", model_class="no_such_library.models:Far", stages=own_stages)
    with pytest.raises(ModelError, match=r"Far of the library 'no_such_library'.*pip install"):
        family.load_class()


def test_a_tensor_without_one_owner_is_refused() -> None:
    def forgetful(_: nn.Module) -> list[Stage]:
        return [own_stages(Own())[0], Stage("head", (), lambda _, hidden: hidden)]

    def greedy(_: nn.Module) -> list[Stage]:
        return [own_stages(Own())[0], Stage("head", ("stem", "head"), lambda _, hidden: hidden)]

    register_family("own", model_class=Own, stages=forgetful)
    with pytest.raises(ModelError, match=r"head.weight \(0 owners\)"):
        split_model(Own(), [1])
    register_family("own", model_class=Own, stages=greedy)
    with pytest.raises(ModelError, match=r"stem.weight \(2 owners\)"):
        split_model(Own(), [1])


@pytest.mark.parametrize(
    ("architectures", "num_labels", "expected"),
    [
        (["Qwen3VLForConditionalGeneration"], None, "qwen3-vl"),
        (["Qwen3VLForConditionalGeneration"], 7, "qwen3-vl vision"),
        (["Qwen3VLForImageClassification"], None, "qwen3-vl vision"),
        (["Qwen3VLForImageClassification"], 7, "qwen3-vl vision"),
        (None, None, "qwen3-vl"),
    ],
)
def test_of_families_with_one_model_type(
    architectures: list[str] | None, num_labels: int | None, expected: str
) -> None:
    config = {"model_type": "qwen3_vl", "architectures": architectures}
    assert family_of_config(config, num_labels).name == expected


def test_architectures_choose_between_families_of_one_model_type() -> None:
    """Break it: return the first family of the model_type."""
    teacher = "DeiTForImageClassificationWithTeacher"
    config = {"model_type": "deit", "architectures": [teacher]}
    assert family_of_config(config).class_name == teacher
    for others in ({}, {"architectures": None}, {"architectures": ["DeiTModel"]}):
        plain = family_of_config({"model_type": "deit", **others})
        assert plain.class_name == "DeiTForImageClassification"
    config = {"model_type": "vit", "architectures": [teacher]}
    assert family_of_config(config).name == "vit"
