"""A saved model has the class names of its run, in its own library's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fedsplit import SplitModel, simulate
from fedsplit.errors import ModelError
from fedsplit.models import InputSpec, load_model, save_model
from fedsplit.models.labels import label_names
from tests.models.families import library_zoo
from tests.models.own import make

pytestmark = pytest.mark.usefixtures("undrawn")

SPEC = InputSpec(3, 16, 16, (0.5,) * 3, (0.5,) * 3)
PETS = ["dog", "cat", "fish", "bird", "horse"]


@pytest.mark.parametrize(
    ("names", "num_labels", "expected"),
    [
        (["a", "b"], 2, ["a", "b"]),
        (["a", "b"], 4, ["a", "b", "LABEL_2", "LABEL_3"]),
        (["cat", "dog", "cat"], 3, ["cat (0)", "dog", "cat (2)"]),
        (["a", "a", "a (0)"], 3, ["a (0)", "a (1)", "a (0) (2)"]),
        (["LABEL_1"], 2, ["LABEL_1 (0)", "LABEL_1 (1)"]),
    ],
)
def test_there_is_one_name_for_each_logit_and_no_two_alike(
    names: list[str], num_labels: int, expected: list[str]
) -> None:
    """Break it: number the names that occur twice, and look no further."""
    assert label_names(names, num_labels) == expected
    assert len(set(expected)) == num_labels


def test_more_names_than_logits_are_refused(vit_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="6 class names for a model of 5 logits"):
        save_model(load_model(vit_directory), SPEC, tmp_path, class_names=[*PETS, "ant"])


def _checkpoint(vit_directory: Path, directory: Path) -> Any:  # noqa: ANN401
    """A checkpoint of five classes with names of its own, whose last layer always says class 1."""
    model: Any = load_model(vit_directory)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0, 0.0]))
    save_model(model, SPEC, directory, class_names=PETS)
    return model


def test_a_pipeline_gives_the_names_that_the_model_was_saved_with(
    vit_directory: Path, tmp_path: Path
) -> None:
    """Break it: leave the names that the checkpoint had."""
    from transformers import AutoConfig, pipeline

    _checkpoint(vit_directory, tmp_path / "pets")
    tuned = load_model(tmp_path / "pets", num_labels=5)
    save_model(tuned, SPEC, tmp_path / "cars", class_names=["bus", "tram", "car", "bus", "van"])
    for folder, expected in (("pets", "cat"), ("cars", "tram")):
        classify: Any = pipeline("image-classification", model=str(tmp_path / folder))
        assert classify(Image.new("RGB", (16, 16)))[0]["label"] == expected
    config: Any = AutoConfig.from_pretrained(tmp_path / "cars")
    assert config.id2label == {0: "bus (0)", 1: "tram", 2: "car", 3: "bus (3)", 4: "van"}
    assert config.label2id == {name: index for index, name in config.id2label.items()}
    # Saved again without names, they stay.
    save_model(load_model(tmp_path / "cars"), SPEC, tmp_path / "again")
    again: Any = AutoConfig.from_pretrained(tmp_path / "again")
    assert again.id2label == config.id2label


@pytest.mark.slow
def test_a_run_saves_the_class_names_of_its_data(vit_directory: Path, tmp_path: Path) -> None:
    """The checkpoint has as many classes, with other names.

    Break it: save the model without the names of the run.
    """
    from transformers import AutoModelForImageClassification

    ten = [f"pet {index}" for index in range(10)]
    save_model(load_model(vit_directory, num_labels=10), SPEC, tmp_path / "ten", class_names=ten)
    result = simulate(
        {
            "model.name": str(tmp_path / "ten"),
            "num-clients": 2,
            "num-server-rounds": 1,
            "batch-size": 8,
            "data.max-train-samples": 40,
            "data.max-test-samples": 20,
            "output-dir": str(tmp_path / "runs"),
        }
    )
    saved: Any = AutoModelForImageClassification.from_pretrained(result.run_dir / "model")
    assert saved.config.id2label[0] == "T-shirt/top"
    assert saved.config.label2id["Ankle boot"] == 9
    merged: Any = result.model.merge()
    assert merged.config.id2label == saved.config.id2label


def test_torchvision_and_timm_keep_the_names_beside_the_architecture(tmp_path: Path) -> None:
    """Break it: leave the names out of config.json, or keep those of another classifier."""
    for name, key in (("torchvision", "class_names"), ("timm", "label_names")):
        model = library_zoo.make(name)
        width = _logits(model)
        names = [f"{name} {index}" for index in range(width)]
        save_model(model, library_zoo.SPEC, tmp_path / name, class_names=names)
        saved = json.loads((tmp_path / name / "config.json").read_text())
        assert saved[key] == names
        # Saved again without names, they stay; another classifier has none of them.
        save_model(load_model(tmp_path / name), library_zoo.SPEC, tmp_path / f"{name} again")
        again = json.loads((tmp_path / f"{name} again" / "config.json").read_text())
        assert again[key] == names
        other = load_model(tmp_path / name, num_labels=width + 1)
        save_model(other, library_zoo.SPEC, tmp_path / f"{name} other")
        assert key not in json.loads((tmp_path / f"{name} other" / "config.json").read_text())


def _logits(model: Any) -> int:  # noqa: ANN401
    head = model.heads.head if hasattr(model, "heads") else model.head
    return int(head.out_features)


def test_timm_itself_reads_the_names(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = library_zoo.make("timm")
    names = [f"class {index}" for index in range(_logits(model))]
    save_model(model, library_zoo.SPEC, tmp_path, class_names=names)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert list(loaded.pretrained_cfg["label_names"]) == names


def test_a_model_of_your_own_keeps_the_names_too(tmp_path: Path) -> None:
    """Break it: leave the names out of config.json."""
    whole: Any = make(3).merge()
    whole.factory = "tests.models.own:make"
    save_model(whole, SPEC, tmp_path, class_names=["x", "y", "z"])
    loaded: Any = load_model(tmp_path, num_labels=3, trust=True)
    assert list(loaded.class_names) == ["x", "y", "z"]
    parts = SplitModel(loaded.bottom, loaded.trunk, loaded.top)
    assert isinstance(parts.merge(), type(loaded))
    assert torch.equal(loaded(torch.ones(1, 1, 28, 28)), whole.eval()(torch.ones(1, 1, 28, 28)))
