from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedsplit import Config
from fedsplit.boundary import TensorSpec
from fedsplit.models import load_model, save_model
from fedsplit.models.loading import input_spec
from fedsplit.models.stages import Part
from fedsplit.preparation import prepare


def test_a_preparation_holds_what_a_run_needs(tiny: dict[str, object]) -> None:
    config = Config.load(tiny, {"split.cut-layer": 2})
    before = torch.get_rng_state()
    prepared = prepare(config)

    assert torch.equal(before, torch.get_rng_state())
    assert (prepared.spec.channels, prepared.spec.height) == (1, 28)
    assert len(prepared.test) == 50
    assert len(prepared.class_names) == prepared.wire.num_labels == 10
    assert prepared.wire.max_batch_size == 8
    assert prepared.wire.smashed.tensors == {"hidden": TensorSpec((1, 17, 64), torch.float32)}
    assert isinstance(prepared.model.bottom, Part)
    assert (prepared.model.bottom.start, prepared.model.bottom.end) == (0, 2)
    assert prepared.whole(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    assert not Path(str(tiny["output-dir"])).exists()


def test_a_classifier_of_other_classes_is_a_warning(
    tiny: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: keep the logits of a checkpoint, whatever their classes, without a word."""
    own = prepare(Config.load(tiny)).class_names
    named = {
        "same": own,
        "order": own[::-1],
        "other": [f"pet {number}" for number in range(10)],
        "unnamed": [f"LABEL_{number}" for number in range(10)],
        "fewer": own[:4],
    }
    told = {}
    for name, class_names in named.items():
        model = load_model("vit-nano", num_labels=len(class_names))
        save_model(model, input_spec("vit-nano"), tmp_path / name, class_names=class_names)
        caplog.clear()
        prepare(Config.load(tiny, {"model.name": str(tmp_path / name)}))
        told[name] = caplog.text
    assert [name for name, text in told.items() if "The classifier of" in text] == [
        "order",
        "other",
    ]
    assert "trained on the same classes in another order: Ankle boot, Bag" in told["order"]
    assert "trained on other classes: pet 0, pet 1" in told["other"]


def test_initial_weights_follow_the_seed_not_the_cut(tiny: dict[str, object]) -> None:
    def first(**overrides: object) -> torch.Tensor:
        model = prepare(Config.load(tiny, overrides)).model.merge()
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    assert torch.equal(first(), first(split_cut_layer=4))
    assert torch.equal(first(), first(strategy="full"))
    assert not torch.equal(first(), first(seed=8))
