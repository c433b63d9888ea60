"""Vision transformers of torchvision, by the name of their builder or by their arguments."""

from __future__ import annotations

import importlib
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models.arguments import check_arguments
from fedsplit.models.hub import PROBE_SECONDS, Source
from fedsplit.models.labels import label_names
from fedsplit.models.processing import input_spec_of
from fedsplit.models.stored import Loaded, Stored, all_of, checkpoint_of
from fedsplit.models.weights import write_model

_LABELS = 1000  # of a model whose config does not state it
_EPS = 1e-6
_RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}


class TorchvisionLibrary:
    """See `Library`. These are the ViTs; `TorchvisionSwinLibrary` is the same for another class.

    Attributes
    ----------
    module_name, class_name : str
        Where the class is. Its name is the architecture of a config that has all its arguments.
    names_pattern : str
        The builders of such models.
    model_type : str
        In config.json.
    further_arguments : tuple[str, ...]
        Those that a config has beside those of the class.
    """

    module_name = "torchvision.models.vision_transformer"
    class_name = "VisionTransformer"
    names_pattern = "vit_*"
    model_type = "torchvision-vit"
    further_arguments: tuple[str, ...] = ("layer_norm_eps",)

    def build(self, source: Source, model_class: type[Any], num_labels: int | None) -> Any:  # noqa: ANN401
        """Call the builder, or the class itself."""
        arguments = {key: value for key, value in source.config.items() if key != "model_type"}
        architecture = arguments.pop("architecture", self.class_name)
        class_names = tuple(arguments.pop("class_names", ()))
        own_class = getattr(self.module(), self.class_name)
        check_arguments(source.name, arguments, own_class, self.further_arguments)
        if source.image_size:
            arguments["image_size"] = source.image_size
        arguments["num_classes"] = num_labels or arguments.get("num_classes", _LABELS)
        model = self.make(source, model_class, architecture, arguments)
        # Another classifier does not take over the checkpoint's class names.
        model.class_names = class_names if len(class_names) == arguments["num_classes"] else ()
        return model

    def make(
        self, source: Source, model_class: type[Any], architecture: str, arguments: dict[str, Any]
    ) -> Any:  # noqa: ANN401
        """Call the builder, or the class itself."""
        if architecture != self.class_name:
            # Take the image size of its pretrained weights, whether or not these are loaded.
            size = self.default_weights(source).meta["min_size"][0]
            return self.models().get_model(architecture, **{"image_size": size, **arguments})
        eps = arguments.pop("layer_norm_eps", _EPS)
        return model_class(**arguments, norm_layer=partial(nn.LayerNorm, eps=eps))

    def build_empty(self, source: Source, model_class: type[Any], num_labels: int | None) -> Any:  # noqa: ANN401
        """Build on the meta device; all of its buffers are weights."""
        with torch.device("meta"):
            return self.build(source, model_class, num_labels)

    def stored_labels(self, source: Source, model_class: type[Any]) -> int | None:
        """Read it in the config."""
        labels: int = source.config.get("num_classes", _LABELS)
        return labels

    def open(self, source: Source, model: nn.Module, cache_dir: str | Path | None) -> Stored:
        """Open the directory, or load the default weights, which torch.hub keeps."""
        if source.directory is None:
            stored: Stored = Loaded(_download(source, self.default_weights(source).url))
        else:
            stored = checkpoint_of(source, cache_dir)
        return self.at_size(stored, model) if source.image_size else stored

    def names(self, model: nn.Module) -> Callable[[str], str]:
        """Rename as torchvision does: published weights have older names."""

        def name(key: str) -> str:
            return re.sub(r"\.linear_([12])\.", lambda m: f".{3 * int(m[1]) - 3}.", key)

        return name

    def may_be_left(self, model: nn.Module, name: str) -> bool:
        """Allow nothing."""
        return False

    def draw(self, model: nn.Module, fresh: Collection[Tensor]) -> None:
        """Copy the freshly drawn heads of a tiny model; torchvision draws mostly zeros."""
        whole: Any = model
        small = self.module().VisionTransformer(
            image_size=1,
            patch_size=1,
            num_layers=0,
            num_heads=1,
            hidden_dim=whole.hidden_dim,
            mlp_dim=1,
            num_classes=whole.heads.head.out_features,
            representation_size=whole.representation_size,
        )
        drawn = {id(tensor) for tensor in fresh}
        with torch.no_grad():
            for ours, theirs in zip(
                whole.heads.parameters(), small.heads.parameters(), strict=True
            ):
                if id(ours) in drawn:
                    ours.copy_(theirs)

    def input_spec(
        self, source: Source, model: nn.Module, processor: Mapping[str, Any]
    ) -> InputSpec:
        """Read the processor, or else the transforms of the name's pretrained weights."""
        named = source.config.get("architecture", self.class_name) != self.class_name
        if named and not processor:
            processor = _processor(self.default_weights(source).transforms())
        spec = input_spec_of(source.name, processor, 3, self.image_size(model))
        return replace(spec, crop_rounding="even")

    def config_of(self, model: nn.Module) -> Mapping[str, Any]:
        """Return all arguments."""
        kind = {"model_type": self.model_type, "architecture": self.class_name}
        return {**kind, **self.arguments(model)}

    def save(
        self, model: nn.Module, directory: Path, class_names: Sequence[str] | None = None
    ) -> None:
        """Write all arguments, and weights that plain torchvision loads.

        Raises
        ------
        ModelError
            If the arguments do not describe the model, or there are more names than logits.
        """
        whole: Any = model
        if class_names is not None:
            whole.class_names = label_names(class_names, self.num_classes(whole))
        names = getattr(whole, "class_names", ())
        config = dict(self.config_of(model))
        model_class = getattr(self.module(), self.class_name)
        again = self.build_empty(Source(str(directory), config, None), model_class, None)
        if repr(again) != repr(model):
            raise ModelError(
                f"This {type(model).__name__} has modules that the arguments of torchvision's "
                f"{self.class_name} do not describe, so it cannot be saved with a config.json. "
                "Save its state_dict."
            )
        write_model(model, {**config, "class_names": list(names)} if names else config, directory)

    def module(self) -> Any:  # noqa: ANN401 - imported when first needed
        """Return the module of the class."""
        return importlib.import_module(self.module_name)

    def models(self) -> Any:  # noqa: ANN401
        """Return torchvision.models."""
        return importlib.import_module("torchvision.models")

    def default_weights(self, source: Source) -> Any:  # noqa: ANN401
        """Return the default weights of a named architecture.

        Raises
        ------
        ModelError
            If torchvision has no such model.
        """
        architecture = source.config["architecture"]
        known = self.models().list_models(include=self.names_pattern)
        if architecture not in known:
            others = self.models().list_models(include=["vit_*", "swin_*"])
            raise ModelError(
                f"The model '{source.name}' is no vision transformer of torchvision. There are: "
                f"{', '.join(others)}."
            )
        return self.models().get_model_weights(architecture).DEFAULT

    def at_size(self, stored: Stored, model: Any) -> Stored:  # noqa: ANN401
        """Interpolate the positions, as torchvision does for images of another size."""
        state = OrderedDict(all_of(stored))
        interpolate = self.module().interpolate_embeddings
        return Loaded(interpolate(model.image_size, model.patch_size, state))

    def image_size(self, model: Any) -> int:  # noqa: ANN401
        """Return height and width of images, where nothing else says them."""
        size: int = model.image_size
        return size

    def num_classes(self, model: Any) -> int:  # noqa: ANN401
        """Return the number of logits."""
        classes: int = model.heads.head.out_features
        return classes

    def arguments(self, model: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the arguments that make the model again."""
        first = next(iter(model.encoder.layers))
        eps = getattr(model.encoder.ln, "eps", _EPS)
        return {
            "image_size": model.image_size,
            "patch_size": model.patch_size,
            "num_layers": len(model.encoder.layers),
            "num_heads": first.self_attention.num_heads,
            "hidden_dim": model.hidden_dim,
            "mlp_dim": model.mlp_dim,
            "dropout": model.dropout,
            "attention_dropout": model.attention_dropout,
            "num_classes": model.heads.head.out_features,
            "representation_size": model.representation_size,
            **({} if eps == _EPS else {"layer_norm_eps": eps}),
        }


LIBRARY = TorchvisionLibrary()


def _download(source: Source, url: str) -> Mapping[str, Tensor]:
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        if not file.is_file():
            # One short attempt first: torch.hub has no time limit.
            urlopen(Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
        state: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"The weights of '{source.name}' are not in {file.parent} and cannot be had from {url} "
            f"({error}). Set model.pretrained to false to draw them at random, or give a local "
            "directory with config.json and model.safetensors."
        ) from None
    return state


def _processor(transforms: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return torchvision's own transforms in the format of preprocessor_config.json."""
    crop = transforms.crop_size[0]
    return {
        "size": {"shortest_edge": transforms.resize_size[0]},
        "do_center_crop": True,
        "crop_size": {"height": crop, "width": crop},
        "resample": _RESAMPLE[transforms.interpolation.value],
        "image_mean": transforms.mean,
        "image_std": transforms.std,
    }
