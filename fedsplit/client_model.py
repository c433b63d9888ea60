"""What a client holds of the model: a bottom, in the U-shaped topology also a top, or all of it.

Weights that train come with the round's message. Frozen weights are never sent: each client makes
them from the checkpoint or the seed, as the server does, and compares digests. So there is nothing
to store, to lose or to send again. A process makes them once for all the clients that it serves.
Weights that cannot affect the output are left uninitialised on clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from fedsplit.cache import OnceCache
from fedsplit.config import Config
from fedsplit.devices import check_device
from fedsplit.errors import ModelError
from fedsplit.exchanged_state import copy_to_train, frozen_digest
from fedsplit.initial_model import autocast_of, dtype_of, initial_model
from fedsplit.models.resolved import ResolvedModel
from fedsplit.models.split import PARTS, hold_parts, join_parts, split_model
from fedsplit.models.stages import Part
from fedsplit.models.trainable import freeze_unused, unused_weights_of


@dataclass(frozen=True)
class _FrozenKey:
    """All that a client's frozen weights depend on. The digest stands for the checkpoint's."""

    model: ResolvedModel
    settings: tuple[object, ...]
    split: bool
    num_labels: int
    sha256: str


_with_frozen: OnceCache[tuple[Part, ...]] = OnceCache(2)


class HeldModel(NamedTuple):
    """What a client holds.

    Attributes
    ----------
    held : nn.Module
        Everything that it holds, under the names of the whole model.
    bottom : nn.Module
        The bottom, or the whole model if it is not split.
    top : nn.Module | None
        The top, if labels stay with the client.
    """

    held: nn.Module
    bottom: nn.Module
    top: nn.Module | None = None


def held_model(
    config: Config, model: ResolvedModel, *, split: bool, num_labels: int, frozen: str
) -> HeldModel:
    """Return what a client holds; weights that train have no values yet.

    Parameters
    ----------
    config : Config
        The run's configuration.
    model : ResolvedModel
        The model of `config`.
    split : bool
        Whether the model is split.
    num_labels : int
        Number of classes.
    frozen : str
        The `frozen_digest` of the same weights at the server; empty if nothing is frozen.

    Raises
    ------
    FedSplitError
        If the device is not here, the model cannot be loaded, or its frozen weights differ
        from the server's.
    """
    check_device(config.device)
    if frozen:
        settings = (config.model, config.split, config.lora, config.seed, config.device)
        parts = _with_frozen.get(
            _FrozenKey(model, settings, split, num_labels, frozen),
            lambda: _make_frozen(config, model, split, num_labels, frozen),
        )
        return _hold(*map(copy_to_train, parts), autocast=autocast_of(config))
    parts = _empty(config, model, split, num_labels)
    for part in parts:
        freeze_unused(part.to(config.device))
    return _hold(*parts, autocast=autocast_of(config))


def forget(model: ResolvedModel) -> None:
    """Drop the frozen weights of a model from memory."""
    _with_frozen.forget(lambda key: isinstance(key, _FrozenKey) and key.model is model)


def _make_frozen(
    config: Config, model: ResolvedModel, split: bool, num_labels: int, frozen: str
) -> tuple[Part, ...]:
    names = ["bottom", "top"] if config.split.u_shaped else ["bottom"]
    wanted = names if split else PARTS
    made = initial_model(config, model, num_labels=num_labels, parts=wanted)
    parts = tuple(getattr(made, name) for name in names) if split else (join_parts(*made),)
    if frozen_digest(_hold(*parts).held, unused_weights_of(parts[0])) != frozen:
        all_sent = "; or set split.trainable = 'all', with which weights are sent"
        raise ModelError(
            f"The frozen weights of '{config.model.name}' at this client differ from the server's. "
            "Give both the same checkpoint, and the same versions of torch and transformers"
            f"{all_sent if config.split.trainable != 'all' else ''}."
        )
    return parts


def _empty(config: Config, model: ResolvedModel, split: bool, num_labels: int) -> tuple[Part, ...]:
    points, dtype = config.split.points, dtype_of(config)
    if not split:
        whole = model.empty_model(num_labels=num_labels, dtype=dtype)
        return (join_parts(*split_model(whole, points)),)
    make = partial(model.empty_part, points=points, num_labels=num_labels, dtype=dtype)
    return (make("bottom"), make("top")) if config.split.u_shaped else (make("bottom"),)


def _hold(
    bottom: Part, top: Part | None = None, *, autocast: torch.dtype | None = None
) -> HeldModel:
    for part in (bottom, *([] if top is None else [top])):
        part.autocast = autocast
    return HeldModel(bottom if top is None else hold_parts(bottom, top), bottom, top)
