"""Split a whole model into bottom, trunk and top, and merge the parts again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, Self, get_args

from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.exchanged_state import rest_frozen
from fedsplit.models.custom import JoinedModel
from fedsplit.models.registry import family_of
from fedsplit.models.stages import (
    Chain,
    Part,
    Stage,
    find,
    graft,
    plant,
    storage_free_copy,
)
from fedsplit.models.ties import tie_again

PartName = Literal["bottom", "trunk", "top"]
PARTS: tuple[PartName, ...] = get_args(PartName)


class SplitModel(NamedTuple):
    """Three modules with ``top(trunk(bottom(images)))`` equal to the whole model's logits.

    `split_model` and `load_split_model` return parts of one model. Modules of your own are allowed
    too (see `fedsplit.models.custom`).
    """

    bottom: nn.Module
    trunk: nn.Module
    top: nn.Module

    def merge(self) -> nn.Module:
        """Return a whole model of the original class that shares the parts' parameters.

        The parts may have been copied, moved, trained, or loaded in different places. Modules of
        your own become a `JoinedModel`.

        Raises
        ------
        ModelError
            If the parts do not form one whole model, some of them were not loaded, or the copies of
        a parameter with two names were trained apart.
        """
        if not any(isinstance(part, Part) for part in self):
            return JoinedModel(*self)
        return merge_parts(*self)

    def server_part(self) -> Part:
        """Return trunk and top joined: what the server holds when it has the labels.

        Parameters are shared with trunk and top.
        """
        if not isinstance(self.trunk, Part):
            return join_parts(*split_model(self.merge(), [1, 2])[1:])
        return join_parts(self.trunk, self.top)


def split_model(model: nn.Module, split_points: Sequence[int]) -> SplitModel:
    """Split a whole model; the parts share its parameters.

    Parameters
    ----------
    model : nn.Module
        A model of a registered family.
    split_points : Sequence[int]
        ``[a]``: bottom [0, a), trunk [a, L+1), top the head. ``[a, b]``: bottom [0, a), trunk
        [a, b), top [b, end). 1 <= a <= b <= L+1 for a model of L blocks.

    Raises
    ------
    ModelError
        If a split point is not a stage boundary, or the model is of no known family.

    Examples
    --------
    >>> from fedsplit.models import load_model, split_model
    >>> bottom, trunk, top = split_model(load_model("vit-nano"), [1])
    >>> [stage.name for stage in trunk.stages]
    ['block 1', 'block 2', 'block 3', 'block 4']
    """
    stages = tuple(family_of(model).stages(model))
    first, second = check_split_points(split_points, [stage.name for stage in stages])
    _check_owners(model, stages)
    chain = Chain(stages, storage_free_copy(model))
    bounds = [(0, first), (first, second), (second, len(stages))]
    parts = [Part(chain, start, end, [model] * (end - start)) for start, end in bounds]
    return SplitModel(*parts)


def stage_parts(model: nn.Module) -> list[Part]:
    """Return each stage of a whole model as a part; the parts share its parameters."""
    chain = split_model(model, [1]).bottom.chain
    assert isinstance(chain, Chain)
    return [Part(chain, index, index + 1, [model]) for index in range(len(chain.stages))]


def stage_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of a model's stages, from the embeddings to the head."""
    return tuple(stage.name for stage in family_of(model).stages(model))


def num_stages(model: nn.Module) -> int:
    """Return how many stages a model has: L+2 for L blocks."""
    return len(stage_names(model))


def check_split_points(split_points: Sequence[int], names: Sequence[str]) -> tuple[int, int]:
    """Return both cuts, or raise a `ModelError` with the value and the valid range.

    Parameters
    ----------
    split_points : Sequence[int]
        One or two cuts, as for `split_model`.
    names : Sequence[str]
        The names of all stages.
    """
    last = len(names) - 1
    points = list(split_points) if isinstance(split_points, Sequence) else []
    whole = all(isinstance(point, int) and not isinstance(point, bool) for point in points)
    if whole and len(points) in (1, 2):
        first, second = points[0], points[-1] if len(points) == 2 else last
        if 1 <= first <= second <= last:
            return first, second
    listed = ", ".join(f"{index} {name}" for index, name in enumerate(names))
    raise ModelError(
        f"The split points {points or split_points!r} do not fit this model. Give one cut [a], or "
        f"two [a, b] with 1 <= a <= b <= {last}: the number of stages before each boundary. "
        f"The stages are: {listed}."
    )


def join_parts(*modules: nn.Module) -> Part:
    """Return one part that runs these parts in turn and shares their parameters.

    Raises
    ------
    ModelError
        If they are not neighbours of one architecture, in order.
    """
    parts = _as_parts(modules)
    _check_neighbours(parts)
    roots: list[nn.Module] = [part for part in parts for _ in part.stages]
    return Part(parts[0].chain, parts[0].start, parts[-1].end, roots)


def hold_parts(*modules: nn.Module, added: Mapping[str, nn.Module] | None = None) -> nn.Module:
    """Return one module with the parameters of these parts, under the whole model's names.

    The parts need not be neighbours, such as the bottom and the top that a client holds when the
    labels stay with it. The module shares the parameters and computes nothing.

    Parameters
    ----------
    *modules : nn.Module
        The parts.
    added : Mapping[str, nn.Module], optional
        More modules to hold, by name.

    Raises
    ------
    ModelError
        If an added module has the name of one of the model's.
    """
    held = _Held()
    for part in _as_parts(modules):
        for stage in part.stages:
            for path in stage.paths:
                plant(held, path, find(part, path))
    for name, module in (added or {}).items():
        if hasattr(held, name):
            raise ModelError(
                f"A client rule adds a module called '{name}', which the model has already. Choose "
                "another name in its added_modules."
            )
        held.add_module(name, module)
    return held


class _Held(nn.Module):
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        rest_frozen(self)
        return self


def merge_parts(*modules: nn.Module) -> nn.Module:
    """Return the whole model of parts that cover it; see `SplitModel.merge`."""
    parts = _as_parts(modules)
    _check_neighbours(parts)
    chain = parts[0].chain
    if parts[0].start != 0 or parts[-1].end != len(chain.stages):
        raise ModelError(
            f"Stages [{parts[0].start}, {parts[-1].end}) are not a whole model of "
            f"{len(chain.stages)} stages. Merge all of its parts."
        )
    devices = {tensor.device.type for part in parts for tensor in part.parameters()}
    if "meta" in devices and len(devices) > 1:
        raise ModelError(
            "Some of the parts hold no weights, so they cannot be merged. "
            'Load them all: parts=("bottom", "trunk", "top").'
        )
    model = storage_free_copy(chain.shell)
    model.train(all(part.training for part in parts))
    for part in parts:
        for stage in part.stages:
            for path in stage.paths:
                graft(model, path, find(part, path))
    tie_again(model, chain.shell)
    return model


def _as_parts(modules: Sequence[nn.Module]) -> list[Part]:
    parts = [module for module in modules if isinstance(module, Part)]
    if len(parts) < len(modules):
        names = ", ".join(type(module).__name__ for module in modules)
        raise ModelError(
            f"{names} are not all parts of one split model. Split the model with split_model or "
            "load_split_model; bottom, trunk and top of your own go together in a SplitModel."
        )
    return parts


def _check_neighbours(parts: Sequence[Part]) -> None:
    if not parts:
        raise ModelError("There are no parts to join. Give at least one.")
    for left, right in pairwise(parts):
        if left.end != right.start or not left.chain.matches(right.chain):
            raise ModelError(
                f"A part with stages [{left.start}, {left.end}) of "
                f"{type(left.chain.shell).__name__} cannot be followed by one with stages "
                f"[{right.start}, {right.end}) of {type(right.chain.shell).__name__}. "
                "Join neighbouring parts of one architecture, in order."
            )


def _check_owners(model: nn.Module, stages: Sequence[Stage]) -> None:
    owned = Counter(name for stage in stages for name in _owned_tensors(model, stage))
    every: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    every.update(dict(model.named_buffers(remove_duplicate=False)))
    wrong = {name: owned[name] for name in every if owned[name] != 1}
    if wrong:
        counts = ", ".join(f"{name} ({count} owners)" for name, count in list(wrong.items())[:5])
        raise ModelError(
            f"Every tensor of {type(model).__name__} must belong to exactly one stage, but: "
            f"{counts}. Mend the paths of the stages in its register_family."
        )


def _owned_tensors(model: nn.Module, stage: Stage) -> Iterator[str]:
    for path in stage.paths:
        item = find(model, path)
        if isinstance(item, nn.Module):
            for name, _ in item.named_parameters(remove_duplicate=False):
                yield f"{path}.{name}"
            for name, _ in item.named_buffers(remove_duplicate=False):
                yield f"{path}.{name}"
        else:
            yield path
