"""Grey images fine-tune RGB checkpoints, in a run from a directory to a directory."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedsplit import simulate
from fedsplit.data.decode import decode
from fedsplit.models import load_model, save_model
from tests.conftest import TINY
from tests.models.families.zoo import images_of, make

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize("name", ["dinov3", "siglip2", "swinv2", "torchvision-swin", "timm-eva02"])
def test_grey_images_train_an_rgb_model(name: str, tmp_path: Path) -> None:
    """Break it: hand the model images of one channel, or leave out what a saved model needs."""
    model = make(name)
    assert images_of(model).channels == 3
    save_model(model, images_of(model), tmp_path / "model")
    changes = {"num-server-rounds": 1, "local-epochs": 1, "data.max-train-samples": 80}
    changes |= {"data.max-test-samples": 20, "split.cut-layer": 2}
    result = simulate(
        {
            **{**TINY, **changes},
            **{"output-dir": str(tmp_path / "runs"), "model.name": str(tmp_path / "model")},
        }
    )
    before, after = model.state_dict(), result.model.merge().state_dict()
    moved = {key for key in before if before[key].shape == after[key].shape}
    assert any(not torch.equal(before[key], after[key]) for key in moved)
    again = load_model(str(result.run_dir / "model")).state_dict()
    assert all(torch.equal(again[key], after[key]) for key in after)


def test_a_grey_image_has_the_same_value_in_three_channels() -> None:
    """Break it: leave the mode of the file as it is."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    stored = {"bytes": file.getvalue(), "path": None}
    image = decode(stored, place=str, channels=3)
    assert (np.asarray(image) == grey[:, :, None]).all()
