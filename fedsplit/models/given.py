"""A model that `simulate` is given as an object: a whole module, or three parts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models.arguments import check_place
from fedsplit.models.custom import JoinedModel
from fedsplit.models.family import Family
from fedsplit.models.hub import Source
from fedsplit.models.libraries.custom import check_apart
from fedsplit.models.making import quietly
from fedsplit.models.processing import spec_of_images
from fedsplit.models.registry import family_of
from fedsplit.models.resolved import ResolvedModel
from fedsplit.models.split import PARTS, SplitModel
from fedsplit.models.stages import Part
from fedsplit.models.storage import move_kept_buffers, weight_slots
from fedsplit.objects import object_name
from fedsplit.seeding import unchanged_generator

ModelObject: TypeAlias = nn.Module | SplitModel | tuple[nn.Module, nn.Module, nn.Module]
_WANTED = (
    "Give a model of a registered family (register_family), or three modules: "
    "SplitModel(bottom, trunk, top)."
)


@dataclass(frozen=True)
class GivenSource(Source):
    """What is known of an object: its weights are its own, and the user's code has made it."""

    @property
    def has_weights(self) -> bool:
        """Whether a run begins with weights that the seed has not drawn: yes."""
        return True

    @property
    def made_by_function(self) -> bool:
        """Whether the user's code has made it, so that its output has to be checked: yes."""
        return True


class GivenModel(ResolvedModel):
    """A module as a model: every use of it gets a copy, and the module itself never changes.

    Parameters
    ----------
    model : object
        What `simulate` was given.

    Raises
    ------
    ModelError
        If it is no model of a known family and no three modules, if it holds no weights, or if two
        parts share some.
    """

    def __init__(self, model: object) -> None:
        cut = _cut_of(model)
        whole = _whole(model)
        _check_weights(whole)
        self._family = family_of(whole)
        name = object_name(SplitModel if isinstance(whole, JoinedModel) else type(whole))
        config = _config_of(self._family, whole, name)
        super().__init__(GivenSource(name, config, None))
        self._cut = cut
        self._whole: nn.Module | None = whole
        # Where no config describes the module, its weights are saved for it alone.
        self._factory = "" if config.get("model_type") != "custom" else name

    def release(self) -> None:
        """Let go of the module, which caches would keep in memory after the run."""
        self._whole = None

    def family(self, num_labels: int | None = None) -> Family:
        """Return the family of the module's class."""
        return self._family

    def skeleton(self, num_labels: int | None = None) -> nn.Module:
        """Return a copy on the meta device; it has the classes that it has."""
        return self._skeletons.get("whole", self._make_skeleton)

    def parts_skeleton(self, points: Sequence[int], num_labels: int | None = None) -> SplitModel:
        """Return the parts of `skeleton`; parts that were given are cut where they are cut.

        Raises
        ------
        ModelError
            If the config cuts elsewhere.
        """
        parts = super().parts_skeleton(points)
        if self._cut is not None:
            assert isinstance(parts.trunk, Part)
            assert isinstance(parts.top, Part)
            first, second = parts.trunk.start, parts.top.start
            if self._cut != (first, second):
                raise ModelError(
                    f"The parts given as model= are cut before the stages {self._cut[0]} and "
                    f"{self._cut[1]}, and split.cut-layer and split.top-layer cut before {first} "
                    f"and {second}. Set split_cut_layer={self._cut[0]}, split the model as the "
                    "config says, or give the whole model: model=parts.merge()."
                )
        return parts

    def input_spec(self, images: Callable[[], tuple[int, int, int]] | None = None) -> InputSpec:
        """Return the images that it takes: its attribute ``input_spec``, if it has one.

        Raises
        ------
        ModelError
            As `ResolvedModel.input_spec`.
        """
        own = getattr(self.skeleton(), "input_spec", None)
        if isinstance(own, InputSpec):
            return own
        says = not self._factory or hasattr(self.skeleton(), "config")
        if says or self._family.library != "transformers":
            return super().input_spec(images)
        return spec_of_images(self.name, images)

    def load(
        self,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        pretrained: bool = True,
        num_labels: int | None = None,
        wanted: Collection[str] | None = None,
    ) -> nn.Module:
        """Return a copy in eval mode with the weights that the module has now, without gradients.

        Raises
        ------
        ModelError
            If it cannot be copied, or the device or dtype is not one for weights.
        """
        check_place(self.name, device, dtype)
        if self._whole is None:
            raise ModelError(f"The run that was given the model '{self.name}' has ended.")
        copied = _copy(self._whole, self.name, {})  # a copied parameter has no gradient
        copied = copied.to(device=device, dtype=dtype or torch.float32).eval()
        if self._factory:
            vars(copied)["factory"] = self._factory
        return copied

    def _make_skeleton(self) -> nn.Module:
        assert self._whole is not None
        memo: dict[int, Any] = {}
        for _, (_, _, tensor) in weight_slots(self._whole):
            memo[id(tensor)] = _without_storage(tensor)
        skeleton = _copy(self._whole, self.name, memo)
        move_kept_buffers(skeleton, "cpu")
        return skeleton.float().eval()


def _without_storage(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _copy(module: nn.Module, name: str, memo: dict[int, Any]) -> nn.Module:
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # whatever the user's classes raise
        raise ModelError(
            f"The model '{name}' cannot be copied ({type(error).__name__}: {error}), and a run "
            "trains a copy. Keep nothing in its modules that copy.deepcopy refuses, such as the "
            "result of a computation with a gradient."
        ) from error


def _whole(model: object) -> nn.Module:
    """Return the whole model of what was given."""
    if isinstance(model, JoinedModel):
        model = (model.bottom, model.trunk, model.top)
    if isinstance(model, nn.Module) and not isinstance(model, Part):
        return model
    if not (isinstance(model, tuple | list) and len(model) == len(PARTS)):
        size = f" with {len(model)} items" if isinstance(model, tuple | list) else ""
        raise ModelError(f"model= is of the type {type(model).__name__}{size}. {_WANTED}")
    for part, module in zip(PARTS, model, strict=True):
        if not isinstance(module, nn.Module):
            raise ModelError(
                f"The {part} of model= is of the type {type(module).__name__}, which is no "
                f"nn.Module. {_WANTED}"
            )
    parts = SplitModel(*model)
    if all(isinstance(part, Part) for part in parts):
        return parts.merge()
    joined = JoinedModel(*parts, factory=object_name(SplitModel))
    check_apart("model= has", joined)
    return joined


def _cut_of(model: object) -> tuple[int, int] | None:
    """Return where parts are cut that `split_model` has made."""
    if isinstance(model, tuple | list) and len(model) == len(PARTS):
        _, trunk, top = model
        if isinstance(trunk, Part) and isinstance(top, Part):
            return trunk.start, top.start
    return None


def _check_weights(whole: nn.Module) -> None:
    for name, tensor in [*whole.named_parameters(), *whole.named_buffers()]:
        if is_lazy(tensor):
            raise ModelError(
                f"'{name}' of model= has no shape yet. Run the model on one image first."
            )
        if tensor.is_meta:
            raise ModelError(
                f"'{name}' of model= is on the meta device: it holds no values. Load the weights "
                "first."
            )


def _config_of(family: Family, whole: nn.Module, name: str) -> Mapping[str, Any]:
    """Return the config that makes such a model again, for its ``model/``; if none does, its name.

    A module whose head was replaced, say, is still of its family, but its config makes another one.
    """
    own = {"model_type": "custom", "factory": name}
    if isinstance(whole, JoinedModel):
        return own
    try:
        library = family.load_library()
        config = library.config_of(whole)
        with quietly(name), unchanged_generator():
            again = library.build_empty(Source(name, config, None), type(whole), None)
    except Exception:  # what a config of a changed module makes a library raise is open-ended
        return own
    shapes = [{n: t.shape for n, (_, _, t) in weight_slots(each)} for each in (again, whole)]
    return config if shapes[0] == shapes[1] else own
