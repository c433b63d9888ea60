"""SigLIP2: patches as its image processor makes them, and a processor saved beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fedsplit.errors import ModelError
from fedsplit.models import input_spec, load_split_model, save_model
from tests.models.families.zoo import images_of, make


def test_published_weights_and_processor_give_the_same_logits(tmp_path: Path) -> None:
    """Break it: order the pixels of a patch by channel first."""
    whole: Any = transformers.Siglip2ForImageClassification
    model = whole(make("siglip2").config).eval()
    model.save_pretrained(tmp_path)
    processor: Any = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=4)
    processor.save_pretrained(tmp_path)
    spec = input_spec(tmp_path)
    assert (spec.height, spec.width, spec.mean) == (16, 16, (0.5,) * 3)
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    bottom, trunk, top = load_split_model(tmp_path, [1])
    with torch.no_grad():
        expected = model(**processor(pixels, return_tensors="pt")).logits
        logits = top(trunk(bottom(((pixels / 255 - 0.5) / 0.5)[None])))
    assert (logits - expected).abs().max() <= 1e-5


def test_the_saved_directory_serves_transformers(tmp_path: Path) -> None:
    """Break it: name ViTImageProcessor, whose images the class does not take."""
    model = make("siglip2")
    save_model(model, images_of(model), tmp_path)
    loader: Any = transformers.AutoImageProcessor
    processor = loader.from_pretrained(tmp_path)
    assert type(processor).__name__ == "Siglip2ImageProcessor"
    values = processor(torch.zeros(3, 50, 40, dtype=torch.uint8), patch_size=8, return_tensors="pt")
    again: Any = transformers.AutoModelForImageClassification
    assert again.from_pretrained(tmp_path)(**values).logits.shape == (1, 3)


def test_a_size_that_patches_do_not_fill_is_refused(tmp_path: Path) -> None:
    model = make("siglip2")
    save_model(model, images_of(model), tmp_path)
    with pytest.raises(ModelError, match="no multiple of 8"):
        input_spec(tmp_path, image_size=20)
