"""Models of transformers, and models of our own written in its style."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedsplit.input_spec import InputSpec
from fedsplit.models.hub import Source
from fedsplit.models.image_sizes import CONFIG_KEY
from fedsplit.models.labels import label_names
from fedsplit.models.processing import input_spec_of
from fedsplit.models.registry import family_of
from fedsplit.models.storage import allocate_kept_buffers, kept_buffers, weight_slots
from fedsplit.models.stored import Loaded, Stored, all_of, checkpoint_of
from fedsplit.seeding import unchanged_generator

_SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)
_TOWER = "vision_model."  # CLIP's and SigLIP's; a tower saved alone lacks the prefix
_DONE = "_is_hf_initialized"  # transformers draws nothing that has this attribute


class TransformersLibrary:
    """See `Library`."""

    def build(self, source: Source, model_class: type[Any], num_labels: int | None) -> Any:  # noqa: ANN401
        """Make a model from its config."""
        return model_class(_configuration(source, model_class, num_labels))

    def build_empty(self, source: Source, model_class: type[Any], num_labels: int | None) -> Any:  # noqa: ANN401
        """Make it on the meta device; then compute the buffers that no checkpoint holds."""
        with torch.device("meta"):
            model: nn.Module = self.build(source, model_class, num_labels)
        allocate_kept_buffers(model)
        buffers = list(kept_buffers(model).values())
        if buffers:
            with unchanged_generator():
                self.draw(model, buffers)
        return model

    def stored_labels(self, source: Source, model_class: type[Any]) -> int | None:
        """Read it in the config, if this is what the checkpoint was saved from."""
        if model_class.__name__ not in (source.config.get("architectures") or []):
            return None
        labels: int = _configuration(source, model_class, None).num_labels
        return labels

    def open(self, source: Source, model: nn.Module, cache_dir: str | Path | None) -> Stored:
        """Open the directory; every name of transformers stands for one."""
        checkpoint = checkpoint_of(source, cache_dir)
        rename = _renaming(model)
        if not any(converted for _, converted in map(rename, checkpoint)):
            return checkpoint
        with checkpoint:
            checkpoint.fetch_all()
            return _converted(model, all_of(checkpoint))

    def names(self, model: nn.Module) -> Callable[[str], str]:
        """Follow the renamings that transformers itself applies to older checkpoints."""
        rename = _renaming(model)
        return lambda key: rename(key)[0]

    def may_be_left(self, model: nn.Module, name: str) -> bool:
        """Allow what the class says it ignores, and buffers that older versions stored."""
        patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
        return name in kept_buffers(model) or any(re.search(p, name) for p in patterns)

    def draw(self, model: nn.Module, fresh: Collection[Tensor]) -> None:
        """Let the model initialise itself, with all other tensors marked as initialised."""
        drawn = {id(tensor) for tensor in fresh}
        every = [slot[2] for _, slot in weight_slots(model)] + list(kept_buffers(model).values())
        for tensor in every:
            if id(tensor) not in drawn:
                setattr(tensor, _DONE, True)
        try:
            whole: Any = model
            with torch.no_grad():
                whole.initialize_weights()
        finally:
            for item in (*every, *model.modules()):
                item.__dict__.pop(_DONE, None)

    def input_spec(
        self, source: Source, model: nn.Module, processor: Mapping[str, Any]
    ) -> InputSpec:
        """Read the model's config and its processor's."""
        whole: Any = model
        processor = _with_defaults(processor)
        image_shape = family_of(model).image_shape
        if image_shape is None:
            config = getattr(whole.config, "vision_config", whole.config)
            return input_spec_of(source.name, processor, config.num_channels, config.image_size)
        bounds = processor.get("size")
        if isinstance(bounds, Mapping) and "shortest_edge" in bounds:
            # These bound the area and are no size.
            processor = {key: value for key, value in processor.items() if key != "size"}
        channels, *size = image_shape(whole.config)
        return input_spec_of(source.name, processor, channels, size)

    def config_of(self, model: nn.Module) -> Mapping[str, Any]:
        """Return its configuration."""
        whole: Any = model
        config: dict[str, Any] = whole.config.to_dict()
        return config

    def save(
        self, model: nn.Module, directory: Path, class_names: Sequence[str] | None = None
    ) -> None:
        """Write what plain transformers loads."""
        whole: Any = model
        if class_names is not None:
            names = label_names(class_names, whole.config.num_labels)
            whole.config.id2label = dict(enumerate(names))
            whole.config.label2id = {name: index for index, name in enumerate(names)}
        whole.save_pretrained(directory)


LIBRARY = TransformersLibrary()


_Renaming = Callable[[str], tuple[str, bool]]
_renamings: WeakKeyDictionary[nn.Module, _Renaming] = WeakKeyDictionary()


def _renaming(model: nn.Module) -> _Renaming:
    """Return the function from a stored key to its name here, and whether its values change too."""
    if model not in _renamings:  # `open` and `names` both ask
        _renamings[model] = _new_renaming(model)
    return _renamings[model]


def _new_renaming(model: nn.Module) -> _Renaming:
    mapping = importlib.import_module("transformers.conversion_mapping")
    loading = importlib.import_module("transformers.core_model_loading")
    conversions = mapping.get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, loading.WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, loading.WeightConverter)]
    state, prefix = model.state_dict(), getattr(model, "base_model_prefix", None)

    @cache
    def rename(key: str) -> tuple[str, bool]:
        if key in state:
            return key, False
        renamed, pattern = loading.rename_source_key(key, renamings, converters, prefix, state)
        if f"{_TOWER}{renamed}" in state:
            renamed = f"{_TOWER}{renamed}"
        return str(renamed), pattern is not None

    return rename


def _converted(model: nn.Module, tensors: dict[str, Tensor]) -> Loaded:
    """Let transformers convert all of a checkpoint whose tensors it has to join or to cut.

    It is not given the directory, in which it would follow an adapter_config.json to another model.
    """
    whole: Any = model
    loaded, found = type(whole).from_pretrained(
        None,
        config=whole.config,
        state_dict=tensors,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    drawn = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    kept = {name: t for name, t in loaded.state_dict().items() if name not in drawn}
    return Loaded(kept | dict.fromkeys(found["unexpected_keys"], torch.empty(0)))


def _with_defaults(processor: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the defaults of the image processor that a preprocessor_config.json names."""
    named = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    if not named:
        return processor
    # Published checkpoints still name classes that transformers has removed.
    name = str(named).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    if not name.endswith("ImageProcessor"):
        return processor
    own = getattr(importlib.import_module("transformers"), name, None)
    defaults = {key: getattr(own, key) for key in _SETTINGS if getattr(own, key, None) is not None}
    found = {**defaults, **processor}
    if isinstance(found.get("size"), int) and not getattr(own, "default_to_square", True):
        found["size"] = {"shortest_edge": found["size"]}
    return found


def _configuration(source: Source, model_class: type[Any], num_labels: int | None) -> Any:  # noqa: ANN401
    overrides: dict[str, object] = {} if num_labels is None else {"num_labels": num_labels}
    config = model_class.config_class.from_dict(dict(source.config), **overrides)
    if source.image_size and source.has_weights:
        setattr(config, CONFIG_KEY, source.image_size)
    elif source.image_size:  # positions are drawn, so there are as many as patches
        config.image_size = source.image_size
    return config
