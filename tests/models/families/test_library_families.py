"""ViTs of torchvision and timm: their tokens, and which of them cannot be split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsplit.errors import ModelError
from fedsplit.models import (
    input_spec,
    load_split_model,
    save_model,
    smashed_spec,
    split_model,
    stage_names,
)
from tests.models.families.library_zoo import LIBRARIES, SPEC, make

NUM_PREFIX = {name: prefix for name, (_, _, prefix) in LIBRARIES.items() if prefix is not None}


@pytest.mark.parametrize("name", NUM_PREFIX)
def test_every_cut_passes_the_patches_and_the_tokens_before_them(name: str) -> None:
    """Break it: leave the register tokens out."""
    num_tokens = NUM_PREFIX[name] + 4
    for cut in (1, 2, 3):
        (spec,) = smashed_spec(split_model(make(name), [cut]).bottom, SPEC).values()
        assert spec.shape_for(3) == (3, num_tokens, 16)


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


@pytest.mark.parametrize("name", ["torchvision-swin", "torchvision-swin-v2"])
def test_the_state_of_torchvisions_swin_is_a_map(name: str) -> None:
    """Break it: number the blocks of each resolution anew."""
    model = make(name)
    names = ("embeddings", "block 1", "block 2", "downsample 1", "block 3", "head")
    assert stage_names(model) == names
    shapes = [
        spec.shape_for(2)
        for cut in range(1, 6)
        for spec in smashed_spec(split_model(model, [cut]).bottom, SPEC).values()
    ]
    assert shapes == [(2, 8, 8, 16)] * 3 + [(2, 4, 4, 32)] * 2


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t"])
def test_swin_by_name(name: str) -> None:
    """Break it: take all names of torchvision for ViTs."""
    parts = load_split_model(f"torchvision:{name}", [3], pretrained=False, num_labels=5)
    spec = input_spec(f"torchvision:{name}")
    assert (spec.height, spec.resize) == ((224, 232) if name == "swin_t" else (256, 260))
    assert input_spec(f"torchvision:{name}", image_size=64).height == 64
    bottom, trunk, top = parts
    images = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(top(trunk(bottom(images))), parts.merge()(images))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dynamic_img_size": True}, "images of any size"),
        ({"patch_drop_rate": 0.5}, "drops patches"),
        ({"global_pool": ""}, "does not pool"),
        ({"rope_type": "mixed"}, "trains its rotary positions"),
        ({"rope_rescale_coords": 2.0}, "at random in training"),
        ({"depth": 0}, "no blocks"),
    ],
)
def test_what_stages_of_eva_do_not_compute_is_refused(
    changes: dict[str, object], reason: str
) -> None:
    """Break it: leave one of the checks out."""
    eva: Any = pytest.importorskip("timm.models.eva").Eva
    small = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = eva(**{**small, "num_classes": 3, "use_rot_pos_emb": True, **changes})
    with pytest.raises(ModelError, match=rf"Eva of timm .*{reason}"):
        split_model(model, [1])


def test_an_eva_made_by_hand_is_not_saved(tmp_path: Path) -> None:
    """Break it: guess its arguments."""
    eva: Any = pytest.importorskip("timm.models.eva").Eva
    model = eva(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3)
    assert split_model(model, [1]).bottom(torch.zeros(1, 3, 16, 16)).shape == (1, 5, 16)
    with pytest.raises(ModelError, match=r"Eva of timm was made by hand.*save its state_dict"):
        save_model(model, SPEC, tmp_path)


@pytest.mark.parametrize(
    ("name", "num_prefix"),
    [
        ("eva02_tiny_patch14_224", 1),
        ("deit3_small_patch16_224", 1),
        ("vit_small_patch16_dinov3", 5),
    ],
)
def test_timm_models_by_name(name: str, num_prefix: int) -> None:
    """Break it: take all names of timm for VisionTransformers."""
    parts = load_split_model(f"timm:{name}", [1], pretrained=False, num_labels=5, image_size=112)
    patches = (112 // (14 if "14" in name else 16)) ** 2
    images = torch.zeros(1, 3, 112, 112)
    with torch.no_grad():
        smashed = parts.bottom(images)
        assert smashed.shape[1] == num_prefix + patches
        assert torch.equal(parts.top(parts.trunk(smashed)), parts.merge()(images))
