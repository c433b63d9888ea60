"""Checkpoints that are no classifiers: pretrained with masked images, or a tower saved alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fedsplit.errors import ModelError
from fedsplit.models import load_model, split_model
from fedsplit.models.registry import family_of
from tests.models.families.zoo import batch, make

# The class that saved it, a model of `zoo` with its config, and what has no place in that.
CHECKPOINTS = [
    ("ViTModel", "vit", "pooler (2)"),
    ("ViTForMaskedImageModeling", "vit", "decoder (2), vit.embeddings.mask_token"),
    ("DeiTForMaskedImageModeling", "deit", "decoder (2), deit.embeddings.mask_token"),
    ("Dinov2Model", "dinov2", ""),
    ("Dinov2Backbone", "dinov2", ""),
    ("Dinov2WithRegistersModel", "dinov2-registers", ""),
    ("CLIPModel", "clip", "logit_scale, text_model (36), text_projection, visual_projection"),
    ("SiglipModel", "siglip", "logit_bias, logit_scale, text_model (38)"),
    ("Siglip2Model", "siglip2", "logit_bias, logit_scale, text_model (38)"),
    ("BeitForMaskedImageModeling", "beit-shared", "layernorm (2), lm_head (2)"),
    ("SwinForMaskedImageModeling", "swin-absolute", "decoder (2), swin.embeddings.mask_token"),
    ("Swinv2ForMaskedImageModeling", "swinv2", "decoder (2), swinv2.embeddings.mask_token"),
    ("DINOv3ViTBackbone", "dinov3", ""),
]
TOWERS = [
    ("CLIPVisionModel", "clip", ""),
    ("CLIPVisionModelWithProjection", "clip", "visual_projection"),
    ("SiglipVisionModel", "siglip", ""),
    ("Siglip2VisionModel", "siglip2", ""),
]


def config_of(name: str) -> Any:  # noqa: ANN401 - of transformers
    model: Any = make(name)
    return model.config


@pytest.mark.parametrize(("saved_by", "name", "left_out"), [*CHECKPOINTS, *TOWERS])
def test_a_checkpoint_with_another_head_gets_a_new_classifier(
    saved_by: str, name: str, left_out: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: leave out `ignored_keys` of a family, or BEiT's pooler from its `head`."""
    config = config_of(name)
    if (saved_by, name, left_out) in TOWERS:
        config = config.vision_config
    pretrained: Any = getattr(transformers, saved_by)(config)
    pretrained.save_pretrained(tmp_path)
    caplog.clear()
    model = load_model(tmp_path, num_labels=4)
    assert family_of(model) is family_of(make(name))
    assert_all_but_the_head_is(model, pretrained.state_dict())
    assert told(caplog) == left_out


def assert_all_but_the_head_is(model: Any, stored: dict[str, torch.Tensor]) -> None:  # noqa: ANN401
    """Compare weights by the ends of their names, because prefixes differ."""
    loaded = model.state_dict()
    new = {name for name in loaded if name.startswith(family_of(model).head)}
    for name in loaded.keys() - new:
        same = [key for key in stored if f".{name}".endswith(f".{key}") or key.endswith(name)]
        (key,) = same
        assert torch.equal(loaded[name], stored[key]), name
    assert loaded["classifier.weight"].shape[0] == 4


def told(caplog: pytest.LogCaptureFixture) -> str:
    lines = [r.getMessage() for r in caplog.records if r.name == "fedsplit.models.left_out"]
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    return "".join(line.partition(" are left out: ")[2].rstrip(".") for line in lines)


@pytest.mark.parametrize("decoder", [True, False])
def test_an_encoder_of_mae_is_a_vit(
    decoder: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: call it a family of its own, or keep its model_type."""
    values = {**config_of("vit").to_dict(), "image_size": 16, "mask_ratio": 0.0}
    values |= {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2}
    values |= {"decoder_num_hidden_layers": 1, "decoder_intermediate_size": 8}
    config: Any = transformers.ViTMAEConfig
    mae: Any = transformers.ViTMAEForPreTraining if decoder else transformers.ViTMAEModel
    pretrained = mae(config.from_dict(values)).eval()
    pretrained.save_pretrained(tmp_path)
    model: Any = load_model(tmp_path, num_labels=4)
    assert type(model).__name__ == "ViTForImageClassification"
    images = torch.randn(2, 3, 16, 16)
    encoder = pretrained.vit if decoder else pretrained
    unshuffled = torch.arange(4.0).repeat(2, 1)
    expected = encoder(images, noise=unshuffled).last_hidden_state
    assert torch.equal(model.vit(images).last_hidden_state, expected)
    assert ("decoder (" in told(caplog)) is decoder


def test_what_is_left_out_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Break it: log without `cache`, and every client says it."""
    model: Any = transformers.ViTModel
    model(config_of("vit")).save_pretrained(tmp_path)
    for _ in range(2):
        load_model(tmp_path, num_labels=4)
    (record,) = (r for r in caplog.records if r.name == "fedsplit.models.left_out")
    assert record.getMessage().startswith(
        f"The model '{tmp_path}': 2 weights of its checkpoint have no place in "
        "ViTForImageClassification and are left out: pooler (2)"
    )


def test_a_tower_splits_like_the_whole(tmp_path: Path) -> None:
    tower: Any = transformers.CLIPVisionModel
    tower(config_of("clip").vision_config).eval().save_pretrained(tmp_path)
    model: Any = load_model(tmp_path, num_labels=3)
    images, _ = batch(model)
    bottom, trunk, top = split_model(model, [2])
    assert torch.equal(top(trunk(bottom(images))), model(images).logits)


def test_a_tower_without_a_number_of_classes_has_no_classifier(tmp_path: Path) -> None:
    tower: Any = transformers.CLIPVisionModel
    tower(config_of("clip").vision_config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"2 missing: classifier\.bias, classifier\.weight"):
        load_model(tmp_path)
