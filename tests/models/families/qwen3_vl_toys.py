"""Tiny random Qwen3-VL models and what they take: images of several sizes, texts, padding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fedsplit.models import num_stages
from fedsplit.seeding import generator, seeded_init

IMAGE, START, END, PAD = 57, 55, 56, 0
NUM_LABELS = 5
PATCH_LENGTH = 3 * 2 * 4 * 4
State = dict[str, Tensor]


def config_of(*, tied: bool = True) -> Any:  # noqa: ANN401
    """Return 4 vision blocks with DeepStack after three of them, and 4 language blocks."""
    from transformers import Qwen3VLConfig

    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 24,
        "num_position_embeddings": 9,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    text = {
        "vocab_size": 60,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 2, 2],
        },
    }
    config_class: Any = Qwen3VLConfig
    return config_class(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        video_token_id=58,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=tied,
        image_size=16,
        num_labels=NUM_LABELS,
    )


def whole_of(*, tied: bool = True) -> Any:  # noqa: ANN401
    from transformers import Qwen3VLForConditionalGeneration

    with seeded_init(3, "qwen"):
        model = Qwen3VLForConditionalGeneration(config_of(tied=tied))
    return disturbed(model).eval()


def classifier_of() -> Any:  # noqa: ANN401
    from fedsplit.models.qwen3_vl_classifier import Qwen3VLForImageClassification

    with seeded_init(4, "qwen"):
        model = Qwen3VLForImageClassification(config_of())
    return disturbed(model).eval()


def disturbed(model: nn.Module) -> nn.Module:
    # Biases start at 0 and norms at 1, where an exchange of two would not show.
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            draw = generator(1, "noise", number)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def images_of(step: int = 0, size: int = 3) -> tuple[Tensor, Tensor]:
    draw = generator(5, "images", step)
    images = torch.randn(size, 3, 8, 16, generator=draw)
    return images, torch.randint(0, NUM_LABELS, (size,), generator=draw)


def packed_of(step: int = 0) -> tuple[State, Tensor]:
    """Return images of several sizes, one of them of two frames, and their labels."""
    draw = generator(6, "packed", step)
    grid = torch.tensor([[1, 4, 4], [2, 2, 6], [1, 2, 2]])
    patches = torch.randn(int(grid.prod(dim=1).sum()), PATCH_LENGTH, generator=draw)
    labels = torch.randint(0, NUM_LABELS, (len(grid),), generator=draw)
    return {"pixel_values": patches, "image_grid_thw": grid}, labels


def texts_of(step: int = 0) -> tuple[State, Tensor]:
    """Return a text with two images, one with one image and padding, one without an image."""
    draw = generator(7, "texts", step)
    grid = torch.tensor([[1, 4, 4], [1, 2, 6], [1, 4, 2]])
    rows = [[*_words(3, draw), *_image(4), *_words(2, draw), *_image(3), *_words(2, draw)]]
    rows += [[*_words(4, draw), *_image(2), *_words(3, draw)], _words(6, draw)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    patches = torch.randn(int(grid.prod(dim=1).sum()), PATCH_LENGTH, generator=draw)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": patches,
        "image_grid_thw": grid,
    }
    return inputs, ids.masked_fill((mask == 0) | (ids == IMAGE), -100)


def _words(count: int, draw: torch.Generator) -> list[int]:
    words: list[int] = torch.randint(1, 50, (count,), generator=draw).tolist()
    return words


def _image(tokens: int) -> list[int]:
    return [START, *[IMAGE] * tokens, END]


def pairs(model: nn.Module) -> list[tuple[int, int]]:
    last = num_stages(model) - 1
    return [(a, b) for a in range(1, last + 1) for b in range(a, last + 1)]


def gradients(modules: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return every parameter's gradient by its name; fail if one has none."""
    found = {n: p.grad for module in modules for n, p in module.named_parameters()}
    there = {name: gradient for name, gradient in found.items() if gradient is not None}
    assert there.keys() == found.keys()
    return there


def assert_close(one: State, other: State, tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        error = (tensor - other[name]).abs().max().item()
        assert error <= tolerance, f"{name}: {error}"


def across(cut: State) -> State:
    """Return the state as it arrives on the other side: without the graph."""
    return {n: t.detach().clone().requires_grad_(t.is_floating_point()) for n, t in cut.items()}


def send_back(cut: State, received: State) -> None:
    """Go on with the gradients of what was received; every floating tensor must have one."""
    floating = [name for name, tensor in cut.items() if tensor.is_floating_point()]
    gradients = [received[name].grad for name in floating]
    assert all(gradient is not None for gradient in gradients), floating
    torch.autograd.backward([cut[name] for name in floating], gradients)
