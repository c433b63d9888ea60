"""The initial model of a run: weights from the checkpoint or the seed, some of them frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from fedsplit.config import Config
from fedsplit.data.first_image import image_size
from fedsplit.input_spec import InputSpec
from fedsplit.models.resolved import ResolvedModel, resolve
from fedsplit.models.split import PARTS, SplitModel
from fedsplit.models.trainable import Lora, train_only
from fedsplit.seeding import seeded_init


def model_of(config: Config, *, run: str = "") -> ResolvedModel:
    """Find the model of a config, with what the config says of its size and its files.

    Parameters
    ----------
    config : Config
        The run's configuration.
    run : str
        As for `resolve`.

    Raises
    ------
    ModelError
        If there is no such model, or it cannot be used.
    """
    model = config.model
    return resolve(model.name, run=run, image_size=model.image_size, trust=model.trust)


def initial_model(
    config: Config, model: ResolvedModel, *, num_labels: int, parts: Sequence[str] = PARTS
) -> SplitModel:
    """Load a run's model on its device. Server and clients get the same weights.

    Parameters
    ----------
    config : Config
        The run's configuration.
    model : ResolvedModel
        The model of `config`.
    num_labels : int
        Number of classes.
    parts : Sequence[str]
        Which of bottom, trunk and top to load; the others have no storage.

    Raises
    ------
    ModelError
        If its weights cannot be loaded.
    """
    with seeded_init(config.seed, "model"):
        loaded = model.load_parts(
            config.split.points,
            device=config.device,
            dtype=dtype_of(config),
            pretrained=config.model.pretrained,
            num_labels=num_labels,
            parts=parts,
        )
    with seeded_init(config.seed, "adapters"):
        train_only(
            (part for name, part in zip(PARTS, loaded, strict=True) if name in parts),
            config.split.trainable,
            cut_layer=config.split.cut_layer,
            lora=Lora(**dict(config.lora)),
        )
    return loaded


def dtype_of(config: Config) -> torch.dtype:
    """Return the dtype of the weights."""
    dtype: torch.dtype = getattr(torch, config.model.dtype)
    return dtype


def autocast_of(config: Config) -> torch.dtype | None:
    """Return the dtype in which parts compute while they train; None = that of the weights."""
    name = config.model.autocast
    return None if name == "none" else getattr(torch, name)


def spec_of(config: Config, model: ResolvedModel, *, look: bool = True) -> InputSpec:
    """Return the images that a run's model takes.

    Parameters
    ----------
    config : Config
        The run's configuration.
    model : ResolvedModel
        The model of `config`.
    look : bool
        As for `load_images`, which is asked if the model does not say what it takes.

    Raises
    ------
    FedSplitError
        If the images are asked for and cannot be read, or are neither grey nor RGB.
    """
    spec = model.input_spec(images=partial(image_size, config.data, look=look))
    return replace(spec, background=config.data.background)
