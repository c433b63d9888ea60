"""ViTs of torchvision and timm: their tokens, and which of them cannot be split."""

from __future__ import annotations

import pytest

from fedsplit.errors import ModelError
from fedsplit.models import smashed_spec, split_model
from tests.models.families.library_zoo import LIBRARIES, SPEC, make


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_cut_passes_the_patches_and_the_tokens_before_them(name: str) -> None:
    """Break it: leave the register tokens out."""
    num_tokens = LIBRARIES[name][2] + 4
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
