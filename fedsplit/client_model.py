"""What a client holds of the model: a bottom, in the U-shaped topology also a top, or all of it.

What trains comes with the round's message. What is frozen is never sent: a client makes it for
itself, from the checkpoint or the seed, as the server does, and shows that it is the same. So
there is nothing to keep, to lose or to send again. A process makes it once, and the clients that
it serves share it. What the model's output does not use no client needs: it is whatever it is.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import nn

from fedsplit.config import Config
from fedsplit.data.cache import OnceCache
from fedsplit.errors import ModelError
from fedsplit.exchanged import copy_to_train, frozen_digest
from fedsplit.initial import dtype_of, initial_model
from fedsplit.models.hub import stamp
from fedsplit.models.skeletons import PARTS, empty_model, empty_part
from fedsplit.models.split import hold_parts, join_parts, split_model
from fedsplit.models.stages import Part
from fedsplit.models.trainable import freeze_idle, idle_of

_with_frozen: OnceCache[tuple[Part, ...]] = OnceCache(2)


class HeldModel(NamedTuple):
    """What a client holds.

    Attributes
    ----------
    held : nn.Module
        All of it, with the names of the whole model.
    bottom : nn.Module
        The whole model, if it is not split.
    top : nn.Module | None
        Where labels stay with the client.
    """

    held: nn.Module
    bottom: nn.Module
    top: nn.Module | None = None


def held_model(config: Config, *, split: bool, num_labels: int, frozen: str) -> HeldModel:
    """Return what a client holds; what trains has no values yet.

    Parameters
    ----------
    config : Config
        The run's configuration.
    split : bool
        Whether the model is split.
    num_labels : int
        Classes.
    frozen : str
        The server's `frozen_digest` of the same.

    Raises
    ------
    ModelError
        If the model cannot be had, or what is frozen differs from the server's.
    """
    if frozen:
        name = config.model.name
        key = (config.model, config.split, config.lora, config.seed, config.device)
        parts = _with_frozen.get(
            (*key, split, num_labels, frozen, stamp(name)),
            lambda: _make_frozen(config, split=split, num_labels=num_labels, frozen=frozen),
        )
        return _hold(*map(copy_to_train, parts))
    parts = _empty(config, split, num_labels)
    for part in parts:
        freeze_idle(part.to(config.device))
    return _hold(*parts)


def _make_frozen(config: Config, *, split: bool, num_labels: int, frozen: str) -> tuple[Part, ...]:
    names = ["bottom", "top"] if config.split.u_shaped else ["bottom"]
    model = initial_model(config, num_labels=num_labels, parts=names if split else PARTS)
    parts = tuple(getattr(model, name) for name in names) if split else (join_parts(*model),)
    if frozen_digest(_hold(*parts).held, idle_of(parts[0])) != frozen:
        all_sent = "; or set split.trainable = 'all', with which weights are sent"
        raise ModelError(
            f"The frozen weights of '{config.model.name}' at this client differ from the server's. "
            "Give both the same checkpoint, and the same versions of torch and transformers"
            f"{all_sent if config.split.trainable != 'all' else ''}."
        )
    return parts


def _empty(config: Config, split: bool, num_labels: int) -> tuple[Part, ...]:
    name, points, dtype = config.model.name, config.split.points, dtype_of(config)
    if not split:
        whole = empty_model(name, num_labels=num_labels, dtype=dtype)
        return (join_parts(*split_model(whole, points)),)
    make = partial(empty_part, name, split_points=points, num_labels=num_labels, dtype=dtype)
    return (make("bottom"), make("top")) if config.split.u_shaped else (make("bottom"),)


def _hold(bottom: Part, top: Part | None = None) -> HeldModel:
    return HeldModel(bottom if top is None else hold_parts(bottom, top), bottom, top)
