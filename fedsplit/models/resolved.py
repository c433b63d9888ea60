"""A model found by its name, once: everything else about it is asked of this value."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from fedsplit.cache import OnceCache
from fedsplit.input_spec import InputSpec
from fedsplit.models import checkpoint
from fedsplit.models.arguments import check_parts, check_place, checked_labels
from fedsplit.models.dropout import dropout_of
from fedsplit.models.family import Family
from fedsplit.models.hub import Source, fetch_weights, find_model
from fedsplit.models.making import Memo
from fedsplit.models.processing import spec_of_images
from fedsplit.models.registry import family_of, family_of_config, is_made_by_user
from fedsplit.models.split import (
    PARTS,
    PartName,
    SplitModel,
    check_split_points,
    split_model,
    stage_names,
)
from fedsplit.models.stages import Part
from fedsplit.models.storage import check_memory, move_kept_buffers, with_storage
from fedsplit.objects import is_object
from fedsplit.references import load_instance


@dataclass(frozen=True)
class _ModelKey:
    """All that a resolved model depends on.

    `run` counts only for a model that the user's own code makes, a function or a class that
    `register_family` names, because such code may use any class or variable of the user's.
    Everything else is made from the contents of the config files.
    """

    name: str
    cache_dir: str | None
    directory: Path | None
    config_sha256: str
    trust: bool
    run: str


_models: OnceCache[ResolvedModel] = OnceCache(16)


def resolve(
    model_name: str | Path,
    *,
    cache_dir: str | Path | None = None,
    run: str = "",
    image_size: int = 0,
    trust: bool = False,
) -> ResolvedModel:
    """Find a model by its name; a process keeps what it has found.

    A local directory whose configs have changed is a new model. A model that the user's own code
    makes, a function or a class that `register_family` names, is kept for one run only: the next
    run uses it as it is then. So is an object that `simulate` is given. A hub id is looked up once.

    Parameters
    ----------
    model_name, cache_dir : str | Path, str | Path | None
        As for `load_split_model`.
    run : str
        Identifies the run that asks. Without it, a model that the user's code makes is not kept.
    image_size, trust : int, bool
        As for `load_split_model`.

    Raises
    ------
    ModelError
        If there is no such model, or the hub cannot be reached. A failure is not kept.
    """
    if is_object(str(model_name)):
        given: ResolvedModel = load_instance(str(model_name), key="model.name", kind=ResolvedModel)
        return given
    found = find_model(str(model_name), cache_dir=cache_dir, trust=trust)
    source = replace(found, image_size=image_size)
    where = None if cache_dir is None else str(cache_dir)
    of_user = is_made_by_user(source)
    if of_user and not run:
        return ResolvedModel(source, where)
    key = _ModelKey(
        name=source.name,
        cache_dir=where,
        directory=source.directory,
        config_sha256=source.sha256,
        trust=trust,
        run=run if of_user else "",
    )
    return _models.get(key, lambda: ResolvedModel(source, where))


@dataclass(frozen=True)
class _SkeletonKey:
    """All that a skeleton depends on, beside the model itself.

    The family is in it because `register_family` may replace one at any time.
    """

    family: Family
    num_labels: int | None
    points: tuple[int, int] | None = None


class ResolvedModel:
    """A model that has been found, without its weights. Made by `resolve`; safe to share.

    Parameters
    ----------
    source : Source
        What its name stands for.
    cache_dir : str | None
        Where hub files are kept.
    """

    def __init__(self, source: Source, cache_dir: str | None = None) -> None:
        self.source = source
        self._cache_dir = cache_dir
        self._skeletons: Memo[nn.Module] = Memo(16)
        self._parts: Memo[SplitModel] = Memo(16)

    @property
    def name(self) -> str:
        """As the user calls it."""
        return self.source.name

    def family(self, num_labels: int | None = None) -> Family:
        """Return its family; that of a classifier if a number of classes is asked for.

        Raises
        ------
        ModelError
            If it belongs to none.
        """
        return family_of_config(self.source.config, num_labels, name=self.name)

    def skeleton(self, num_labels: int | None = None) -> nn.Module:
        """Return the whole model with its weights on the meta device.

        It is built from the config, and nothing random is drawn. The object is shared: copy it
        before changing it.

        Raises
        ------
        ModelError
            If the model cannot be built.
        """
        family = self.family(checked_labels(num_labels))
        return self._skeletons.get(
            _SkeletonKey(family, num_labels),
            lambda: checkpoint.build_empty(self.source, family, num_labels),
        )

    def parts_skeleton(self, points: Sequence[int], num_labels: int | None = None) -> SplitModel:
        """Return the parts of `skeleton`, which are shared too.

        Parameters
        ----------
        points : Sequence[int]
            As for `split_model`.
        num_labels : int, optional
            Classes of the whole model.

        Raises
        ------
        ModelError
            If the model cannot be built, or a split point is no stage boundary.
        """
        whole = self.skeleton(num_labels)
        cuts = check_split_points(points, stage_names(whole))
        key = _SkeletonKey(family_of(whole), num_labels, cuts)
        return self._parts.get(key, lambda: split_model(whole, cuts))

    def empty_model(
        self, *, num_labels: int | None = None, dtype: torch.dtype | None = None
    ) -> nn.Module:
        """Return the whole model on the CPU with uninitialised weights, to be filled by others."""
        model = copy.deepcopy(self.skeleton(num_labels))
        with_storage(model, dtype)
        return model

    def empty_part(
        self,
        which: PartName,
        points: Sequence[int],
        *,
        num_labels: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Part:
        """Return one part on the CPU with uninitialised weights, to be filled by others.

        Each call returns an independent part, cheaply, from any thread.

        Parameters
        ----------
        which : {"bottom", "trunk", "top"}
            The part.
        points : Sequence[int]
            As for `split_model`.
        num_labels : int, optional
            Classes of the whole model.
        dtype : torch.dtype, optional
            Default float32.

        Raises
        ------
        ModelError
            If the model cannot be built, or a split point is no stage boundary.
        """
        part: Part = copy.deepcopy(getattr(self.parts_skeleton(points, num_labels), which))
        with_storage(part, dtype)
        return part

    def input_spec(self, images: Callable[[], tuple[int, int, int]] | None = None) -> InputSpec:
        """Return the images that the model takes; see `fedsplit.models.loading.input_spec`."""
        library = self.family(num_labels=1).load_library()  # 1, because it is to classify
        spec = library.input_spec(self.source, self.skeleton(1), self.source.processor())
        if spec is not None:
            return spec.at(self.source.image_size) if self.source.image_size else spec
        return spec_of_images(self.name, images)

    def dropout_probabilities(self) -> dict[str, float]:
        """Return the names of what drops out, with probabilities above 0; see `dropout_of`."""
        return dropout_of(self.skeleton())

    def load(
        self,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        pretrained: bool = True,
        num_labels: int | None = None,
        wanted: Collection[str] | None = None,
    ) -> nn.Module:
        """Return the whole model with its weights; see `fedsplit.models.loading.load_model`.

        Parameters
        ----------
        device, dtype, pretrained, num_labels
            As for `load_split_model`.
        wanted : Collection[str], optional
            Names of the weights to read; the others stay without storage. Default all.
        """
        check_place(self.name, device, dtype)
        family = self.family(checked_labels(num_labels))
        stored = pretrained and self.source.has_weights
        if not self.source.made_by_function:
            check_memory(self.name, self.skeleton(num_labels), dtype, wanted if stored else None)
        if not stored:
            return checkpoint.build(self.source, family, num_labels).to(device=device, dtype=dtype)
        if self.source.from_hub:
            assert self.source.directory is not None  # a snapshot's, called by its commit
            fetch_weights(self.name, self._cache_dir, revision=self.source.directory.name)
        model = checkpoint.load(
            self.source,
            family,
            copy.deepcopy(self.skeleton(num_labels)),
            num_labels=num_labels,
            wanted=wanted,
            device=device,
            dtype=dtype,
            cache_dir=self._cache_dir,
        )
        move_kept_buffers(model, device, dtype)
        return model

    def load_parts(
        self,
        points: Sequence[int],
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        pretrained: bool = True,
        num_labels: int | None = None,
        parts: Sequence[str] = PARTS,
    ) -> SplitModel:
        """Return bottom, trunk and top; see `fedsplit.models.loading.load_split_model`."""
        check_parts(parts)
        shape = self.parts_skeleton(points, num_labels)  # also refuses a cut before reading weights
        wanted = {name for part in parts for name in getattr(shape, part).state_dict()}
        model = self.load(
            device=device, dtype=dtype, pretrained=pretrained, num_labels=num_labels, wanted=wanted
        )
        split = split_model(model, points)
        for name, part in zip(PARTS, split, strict=True):
            if name not in parts:
                part.to("meta")
        return split
