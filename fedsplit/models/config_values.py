"""The values of a model's config: refused before anything is built if no model has such ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedsplit.errors import ModelError


class _Bounds(NamedTuple):
    pattern: re.Pattern[str]
    lowest: int
    highest: int
    of_sum: bool = False


def _bounds(pattern: str, lowest: int, highest: int, *, of_sum: bool = False) -> _Bounds:
    return _Bounds(re.compile(pattern), lowest, highest, of_sum)


# The first that fits a key. Published models have at most some 100 layers of some 10,000 numbers.
_BOUNDS = (
    _bounds(r"depths", 0, 1000, of_sum=True),
    _bounds(r"(.*_)?(layers|depth|blocks)", 0, 1000),
    _bounds(r"num_labels|num_classes", 0, 100_000),
    _bounds(r"(image|img|patch|temporal_patch|spatial_merge)_size", 1, 8192),
    _bounds(r"fedsplit_image_size|(.*_)?window_sizes?|input_size", 0, 8192),
    _bounds(r"hidden_size|(hidden|embed|mlp)_dims?|num_(attention_)?heads", 1, 2**20),
    _bounds(r"intermediate_size|num_channels|in_chans", 1, 2**20),
    _bounds(r"(.*_)?(eps|epsilon|dropout|drop_rate|drop_path_rate)|.*_dropout_prob", 0, 1),
    _bounds(r".*_(size|dims?|heads|channels|chans|tokens|experts|features|patches)", 0, 2**20),
)
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("model_type", "architecture", "factory"), str),
    **dict.fromkeys(("architectures", "class_names", "label_names"), list),
    **dict.fromkeys(("vision_config", "text_config", "pretrained_cfg", "model_args"), dict),
    **dict.fromkeys(("id2label", "label2id"), dict),
}
_WORDS: Mapping[type, str] = {str: "text", list: "a list", dict: "an object"}
_MAX_ITEMS = 1000
_MAX_NAMES = 100_000
_OF_NAMES = ("id2label", "label2id", "class_names", "label_names", "label_descriptions")


def check_values(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a config with more layers, wider ones, or more entries than any model has.

    Values that fedsplit itself reads must also be of the right kind.

    Parameters
    ----------
    config : Mapping[str, Any]
        The contents of config.json.
    path : Path
        The file, for messages.

    Raises
    ------
    ModelError
        Names the key, the value and what is allowed.
    """
    for key, value in _values(config):
        if any(isinstance(n, float) and not math.isfinite(n) for n in _items(value)):
            raise ModelError(
                f"The file '{path}' has {key} = {value!r:.80}, which JSON does not know and no "
                "model computes with. Correct it, or copy or save the model again."
            )
        kind = _KINDS.get(key)
        if kind is not None and value is not None and not isinstance(value, kind):
            raise ModelError(
                f"The file '{path}' has {key} = {value!r:.80}, which must be {_WORDS[kind]}. "
                "Correct it, or copy or save the model again."
            )
        most = _MAX_NAMES if key in _OF_NAMES else _MAX_ITEMS
        if isinstance(value, Mapping | list) and len(value) > most:
            raise ModelError(
                f"The file '{path}' has {len(value)} entries in {key}, more than {most}. Correct "
                "it, or copy or save the model again."
            )
        if (bounds := _bounds_of(key)) is not None:
            _check(key, value, bounds, path)


def _bounds_of(key: str) -> _Bounds | None:
    return next((bounds for bounds in _BOUNDS if bounds.pattern.fullmatch(key)), None)


def _check(key: str, value: object, bounds: _Bounds, path: Path) -> None:
    numbers = [n for n in _items(value) if isinstance(n, int | float) and not isinstance(n, bool)]
    if bounds.of_sum and numbers and all(number >= 0 for number in numbers):
        numbers = [sum(numbers)]
    for number in numbers:
        if not bounds.lowest <= number <= bounds.highest:  # NaN is neither
            raise ModelError(
                f"The file '{path}' has {key} = {value!r:.80}; a model has {bounds.lowest} to "
                f"{bounds.highest}. Correct it, or copy or save the model again."
            )


def _values(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        yield key, value
        for item in _items(value):
            if isinstance(item, Mapping):
                yield from _values(item)


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]
