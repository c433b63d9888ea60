"""Models without weights: what a client builds before its weights arrive."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from fedsplit.models import checkpoint
from fedsplit.models.hub import find_model, stamp
from fedsplit.models.split import SplitModel, split_model
from fedsplit.models.stages import Part
from fedsplit.models.storage import with_storage

PartName = Literal["bottom", "trunk", "top"]
PARTS: tuple[PartName, ...] = get_args(PartName)


def skeleton(
    model_name: str, *, num_labels: int | None = None, cache_dir: str | Path | None = None
) -> nn.Module:
    """Return the whole model without its weights, which are on the meta device.

    It is built from its config. The object is cached and shared: copy it before changing it.
    Nothing random is drawn.

    Raises
    ------
    ModelError
        If the model's config cannot be had.
    """
    return _skeleton(model_name, num_labels, _text(cache_dir), stamp(model_name))


def empty_model(
    model_name: str,
    *,
    num_labels: int | None = None,
    cache_dir: str | Path | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Return a whole model on the CPU with uninitialised weights, for weights that arrive."""
    model = copy.deepcopy(skeleton(model_name, num_labels=num_labels, cache_dir=cache_dir))
    with_storage(model, dtype)
    return model


def empty_part(
    model_name: str,
    which: PartName,
    split_points: Sequence[int],
    *,
    num_labels: int | None = None,
    cache_dir: str | Path | None = None,
    dtype: torch.dtype | None = None,
) -> Part:
    """Return one part on the CPU with uninitialised weights, for weights that arrive.

    Each call gives an independent part, cheaply, from any thread.

    Parameters
    ----------
    model_name : str
        As for `load_split_model`.
    which : {"bottom", "trunk", "top"}
        The part.
    split_points : Sequence[int]
        As for `load_split_model`.
    num_labels : int, optional
        Classes of the whole model.
    cache_dir : str | Path, optional
        Where hub files are kept.
    dtype : torch.dtype, optional
        Default float32.

    Raises
    ------
    ModelError
        If the model's config cannot be had, or a split point is no stage boundary.
    """
    key = (model_name, tuple(split_points), num_labels, _text(cache_dir), stamp(model_name))
    part: Part = copy.deepcopy(getattr(_split_skeleton(*key), which))
    with_storage(part, dtype)
    return part


def _text(cache_dir: str | Path | None) -> str | None:
    return None if cache_dir is None else str(cache_dir)


@lru_cache(maxsize=16)
def _skeleton(
    model_name: str, num_labels: int | None, cache_dir: str | None, _stamp: tuple[int, int]
) -> nn.Module:
    source = find_model(model_name, cache_dir=cache_dir)
    return checkpoint.build_empty(source, num_labels=num_labels)


@lru_cache(maxsize=16)
def _split_skeleton(
    model_name: str,
    split_points: tuple[int, ...],
    num_labels: int | None,
    cache_dir: str | None,
    _stamp: tuple[int, int],
) -> SplitModel:
    return split_model(_skeleton(model_name, num_labels, cache_dir, _stamp), split_points)
