"""Models that need no download: a Hugging Face config each, and no pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping

BUILTIN_MODELS: Mapping[str, Mapping[str, object]] = {
    # 205,066 parameters; 16 patches and the class token, [17, 64] at every cut.
    "vit-nano": {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "patch_size": 7,
        "image_size": 28,
        "num_channels": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(index): f"LABEL_{index}" for index in range(10)},
        "label2id": {f"LABEL_{index}": index for index in range(10)},
    },
}
"""Config by name. Each model has ten labels unless num_labels says otherwise."""
