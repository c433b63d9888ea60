"""Vision transformers of timm, by name; their config.json is the one that timm itself writes."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models.arguments import check_arguments
from fedsplit.models.directory import SINGLE
from fedsplit.models.hub import Source, fetch_weights
from fedsplit.models.labels import label_names
from fedsplit.models.libraries.timm_arguments import BASE, arguments_of
from fedsplit.models.processing import input_spec_of
from fedsplit.models.stored import Checkpoint, Loaded, Stored, all_of, checkpoint_of
from fedsplit.models.weights import write_model

_LABELS = ("label_names", "label_descriptions")
_PLACES = (
    *("url", "file", "hf_hub_id", "hf_hub_filename"),
    *("source", "state_dict", "custom_load"),
)
"""Where timm would get the weights of a model from."""
_SHOWN = (0.05, 2)
_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


class TimmLibrary:
    """See `Library`. These are the ViTs; `TimmEvaLibrary` is the same for another class.

    Attributes
    ----------
    module_name, class_name : str
        Where the class is.
    model_type : str
        In config.json.
    """

    module_name = "timm.models.vision_transformer"
    class_name = "VisionTransformer"
    model_type = "timm-vit"

    def build(self, source: Source, model_class: type[Any], num_labels: int | None) -> Any:  # noqa: ANN401
        """Let timm build it, with the arguments in its config."""
        config, name = source.config, _architecture(source)
        arguments = {key: config[key] for key in ("num_classes", "global_pool") if key in config}
        arguments.update(config.get("model_args") or {})
        own_class = getattr(importlib.import_module(self.module_name), self.class_name)
        check_arguments(source.name, arguments, own_class, ("norm_layer",))
        if num_labels is not None:
            arguments["num_classes"] = num_labels
        if source.image_size:
            arguments["img_size"] = source.image_size
        known = config.get("pretrained_cfg")
        if known is not None:  # timm moves class names from the config into it
            known = {key: value for key, value in known.items() if key not in _PLACES}
            known |= {key: config[key] for key in _LABELS if key in config}
        model = _timm().create_model(name, pretrained=False, pretrained_cfg=known, **arguments)
        if not isinstance(model, model_class):
            raise ModelError(
                f"The model '{source.name}' is a {type(model).__name__} of timm, but only its "
                "VisionTransformer and Eva can be split. Use one such as "
                "timm:vit_small_patch16_224."
            )
        return model

    def build_empty(self, source: Source, model_class: type[Any], num_labels: int | None) -> Any:  # noqa: ANN401
        """Build on the meta device; all of its buffers are weights."""
        with torch.device("meta"):
            return self.build(source, model_class, num_labels)

    def stored_labels(self, source: Source, model_class: type[Any]) -> int | None:
        """Read it in the config, or in timm's own config of the name; 0 means none."""
        config = source.config
        if "num_classes" in config:
            return config["num_classes"] or None
        if "pretrained_cfg" in config:
            return config["pretrained_cfg"].get("num_classes") or None
        return _published(source).num_classes or None

    def open(self, source: Source, model: nn.Module, cache_dir: str | Path | None) -> Stored:
        """Open the directory, or fetch the weights that timm has for the name from the hub."""
        # timm renames the keys of some checkpoints, reshapes the patches of others, and
        # interpolates the positions of images of another size.
        adapt = importlib.import_module(self.module_name).checkpoint_filter_fn
        if source.directory is not None:
            stored = checkpoint_of(source, cache_dir)
            return Loaded(adapt(all_of(stored), model)) if source.image_size else stored
        hub_id = _published(source).hf_hub_id
        way_out = "Set model.pretrained to false to draw them at random."
        if not hub_id:
            raise ModelError(f"There are no weights of '{source.name}' on the hub. {way_out}")
        try:
            folder = fetch_weights(hub_id, cache_dir)
        except ModelError as error:
            raise ModelError(
                f"The weights of '{source.name}' cannot be had. {error} {way_out}"
            ) from None
        if not (folder / SINGLE).is_file():
            raise ModelError(f"The weights of '{source.name}' are no {SINGLE}. {way_out}")
        return Loaded(adapt(all_of(Checkpoint(folder)), model))

    def names(self, model: nn.Module) -> Callable[[str], str]:
        """Change nothing."""
        return str

    def may_be_left(self, model: nn.Module, name: str) -> bool:
        """Allow nothing."""
        return False

    def draw(self, model: nn.Module, fresh: Collection[Tensor]) -> None:
        """Draw a head as timm does."""
        whole: Any = model
        drawn = {id(tensor) for tensor in fresh}
        head = nn.Linear(whole.head.in_features, whole.head.out_features)
        mode = whole.weight_init_mode
        bias = -math.log(whole.num_classes) if "nlhb" in mode else 0.0
        importlib.import_module(self.module_name).get_init_weights_vit(mode, bias)(head, "head")
        with torch.no_grad():
            for ours, theirs in zip(whole.head.parameters(), head.parameters(), strict=True):
                if id(ours) in drawn:
                    ours.copy_(theirs)

    def input_spec(
        self, source: Source, model: nn.Module, processor: Mapping[str, Any]
    ) -> InputSpec:
        """Read the processor, or else derive it from timm's own transforms."""
        whole: Any = model
        size = whole.patch_embed.img_size
        if not processor:
            processor = _processor(source, whole.pretrained_cfg, size)
        spec = input_spec_of(source.name, processor, whole.in_chans, size)
        return replace(spec, crop_rounding="even")  # timm crops by torchvision

    def arguments(self, model: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the arguments that make the model again."""
        return arguments_of(model)

    def config_of(self, model: nn.Module) -> Mapping[str, Any]:
        """Return config.json as timm writes it."""
        return _config(model, self.model_type, self.arguments(model))

    def save(
        self, model: nn.Module, directory: Path, class_names: Sequence[str] | None = None
    ) -> None:
        """Write what `timm.create_model("local-dir:...", pretrained=True)` loads.

        Raises
        ------
        ModelError
            If the arguments do not describe the model, or there are more names than logits.
        """
        whole: Any = model
        if class_names is not None:
            known = getattr(whole, "pretrained_cfg", None) or {}  # none, if made by hand
            kept = {key: value for key, value in known.items() if key not in _LABELS}
            kept["label_names"] = label_names(class_names, whole.num_classes)
            whole.pretrained_cfg = kept
        config = dict(self.config_of(whole))
        again = self.build_empty(Source(str(directory), config, None), type(model), None)
        if repr(again) != repr(model):
            raise ModelError(
                f"This {type(model).__name__} has modules that a name and arguments of timm do not "
                "describe, so it cannot be saved with a config.json. Save its state_dict."
            )
        write_model(model, config, directory)


LIBRARY = TimmLibrary()


def _timm() -> Any:  # noqa: ANN401 - an optional library, imported when first needed
    return importlib.import_module("timm")


def _architecture(source: Source) -> str:
    name = str(source.config["architecture"])
    if not _timm().is_model(name.partition(".")[0]):
        raise ModelError(
            f"timm has no model '{name}'. Use one such as timm:vit_small_patch16_224; "
            "timm.list_models('vit_*') lists them."
        )
    return name


def _published(source: Source) -> Any:  # noqa: ANN401
    return importlib.import_module("timm.models").get_pretrained_cfg(_architecture(source))


def _config(model: Any, model_type: str, arguments: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Return config.json as timm writes it."""
    known = getattr(model, "pretrained_cfg", None) or {}
    names = known.get("label_names") or ()
    labels = {key: known[key] for key in _LABELS if known.get(key)}
    left_out = {*_LABELS, *_PLACES}
    return {
        "model_type": model_type,
        "architecture": known.get("architecture", BASE),
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
        "model_args": arguments,
        **(labels if len(names) == model.num_classes else {}),
        "pretrained_cfg": {
            **{key: value for key, value in known.items() if key not in left_out},
            "num_classes": model.num_classes,
            "input_size": [model.in_chans, *model.patch_embed.img_size],
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _processor(source: Source, known: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Return timm's own transforms in the format of preprocessor_config.json."""
    mode, filter_name = known.get("crop_mode", "center"), known["interpolation"]
    shown = known["crop_pct"]
    if not isinstance(shown, int | float) or not _SHOWN[0] <= shown <= _SHOWN[1]:
        raise ModelError(
            f"The model '{source.name}' has crop_pct = {shown!r:.80}, the part of an image that it "
            f"is shown. Give a number from {_SHOWN[0]} to {_SHOWN[1]}, or its directory a "
            "preprocessor_config.json."
        )
    height, width = (math.floor(edge / shown) for edge in size)
    # timm resizes to the longer of two edges for the centre of images that are not square.
    if mode not in ("center", "squash") or (mode == "center" and height != width):
        raise ModelError(
            f"The model '{source.name}' wants images of {size[0]}x{size[1]} cropped by '{mode}', "
            "which is not done here. Give its directory a preprocessor_config.json that says "
            "another way."
        )
    if filter_name not in _RESAMPLE:
        raise ModelError(
            f"The model '{source.name}' wants its images resized by '{filter_name}', which is "
            f"none of {', '.join(_RESAMPLE)}. Give its directory a preprocessor_config.json that "
            "says one of these."
        )
    centre = mode == "center"
    return {
        "size": {"shortest_edge": height} if centre else {"height": height, "width": width},
        "do_center_crop": True,
        "crop_size": {"height": size[0], "width": size[1]},
        "resample": _RESAMPLE[filter_name],
        "image_mean": list(known["mean"]),
        "image_std": list(known["std"]),
    }
