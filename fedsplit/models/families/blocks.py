"""What the families share: a chain of transformer blocks, one stage each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import attrgetter
from typing import Any

from torch import Tensor

from fedsplit.models.stages import Root, Stage


def block_stages(model: Root, *places: str, **options: object) -> list[Stage]:
    """List a stage for each block: [B, T, D] -> [B, T, D] for T tokens.

    Parameters
    ----------
    model : Root
        The whole model.
    places : str
        Where the list of blocks may be, for example ``"vit.layers"``; the first that is there
        counts. Versions of transformers differ.
    options : object
        Keyword arguments for every block.
    """
    place = next(place for place in places if _has(model, place))
    paths = [f"{place}.{index}" for index in range(len(attrgetter(place)(model)))]
    return [
        Stage(f"block {number}", (path,), partial(_run, attrgetter(path), options))
        for number, path in enumerate(paths, start=1)
    ]


def run_block(block: Root, hidden: Tensor, **options: object) -> Tensor:
    """Run a block of transformers; some return a tuple with the hidden states first."""
    output = block(hidden, **options)
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def _run(
    find_block: attrgetter[Any], options: Mapping[str, object], root: Root, hidden: Tensor
) -> Tensor:
    return run_block(find_block(root), hidden, **options)


def _has(model: Root, path: str) -> bool:
    try:
        attrgetter(path)(model)
    except AttributeError:
        return False
    return True
