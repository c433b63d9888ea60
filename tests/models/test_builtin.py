from __future__ import annotations

from fedsplit.models import load_model

WIDTH, BLOCKS, MLP, PATCHES, PATCH, CLASSES = 64, 4, 256, 16, 7, 10


def test_vit_nano_has_exactly_these_parameters() -> None:
    embeddings = WIDTH + (PATCHES + 1) * WIDTH + PATCH * PATCH * WIDTH + WIDTH
    attention = 4 * (WIDTH * WIDTH + WIDTH)
    mlp = WIDTH * MLP + MLP + MLP * WIDTH + WIDTH
    block = attention + mlp + 4 * WIDTH
    head = 2 * WIDTH + WIDTH * CLASSES + CLASSES
    count = sum(parameter.numel() for parameter in load_model("vit-nano").parameters())
    assert count == embeddings + BLOCKS * block + head == 205_066


def test_vit_nano_has_no_dropout() -> None:
    config = load_model("vit-nano").config
    assert config.hidden_dropout_prob == 0.0  # type: ignore[union-attr]
    assert config.attention_probs_dropout_prob == 0.0  # type: ignore[union-attr]
