"""The model of a run as it starts: weights from checkpoint or seed, some of them frozen."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedsplit.config import Config
from fedsplit.models.loading import load_split_model
from fedsplit.models.skeletons import PARTS
from fedsplit.models.split import SplitModel
from fedsplit.models.trainable import Lora, train_only
from fedsplit.seeding import seeded_init


def initial_model(config: Config, *, num_labels: int, parts: Sequence[str] = PARTS) -> SplitModel:
    """Load a run's model on its device, the same wherever it is done.

    Parameters
    ----------
    config : Config
        The run's configuration.
    num_labels : int
        Classes.
    parts : Sequence[str]
        Which of bottom, trunk and top to have; the others come without storage.

    Raises
    ------
    ModelError
        If the model or its weights cannot be had.
    """
    with seeded_init(config.seed, "model"):
        model = load_split_model(
            config.model.name,
            config.split.points,
            device=config.device,
            dtype=dtype_of(config),
            pretrained=config.model.pretrained,
            num_labels=num_labels,
            parts=parts,
        )
    with seeded_init(config.seed, "adapters"):
        train_only(
            (part for name, part in zip(PARTS, model, strict=True) if name in parts),
            config.split.trainable,
            cut_layer=config.split.cut_layer,
            lora=Lora(**dict(config.lora)),
        )
    return model


def dtype_of(config: Config) -> torch.dtype:
    """Return the dtype of the weights."""
    dtype: torch.dtype = getattr(torch, config.model.dtype)
    return dtype
