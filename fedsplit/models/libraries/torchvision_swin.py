"""Swin transformers of torchvision, by the name of their builder or by their arguments."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedsplit.models.hub import Source
from fedsplit.models.libraries.torchvision import TorchvisionLibrary
from fedsplit.models.stored import Stored

_EPS = 1e-5
_SIZE = 224  # of a stored model without a preprocessor_config.json: the weights fit every size


class TorchvisionSwinLibrary(TorchvisionLibrary):
    """See `Library`."""

    module_name = "torchvision.models.swin_transformer"
    class_name = "SwinTransformer"
    names_pattern = "swin_*"
    model_type = "torchvision-swin"
    further_arguments = ("layer_norm_eps", "version", "image_size")

    def make(
        self, source: Source, model_class: type[Any], architecture: str, arguments: dict[str, Any]
    ) -> Any:  # noqa: ANN401
        """Call the builder, or the class itself; images may have any size."""
        arguments.pop("image_size", None)
        if architecture != self.class_name:
            self.default_weights(source)  # refuses an unknown name
            return self.models().get_model(architecture, **arguments)
        eps = arguments.pop("layer_norm_eps", _EPS)
        kinds = self.kinds(arguments.pop("version", 1))
        return model_class(**arguments, **kinds, norm_layer=partial(nn.LayerNorm, eps=eps))

    def kinds(self, version: int) -> dict[str, Any]:
        """Return the modules that differ between the versions of Swin."""
        module, end = self.module(), "" if version == 1 else "V2"
        return {
            "block": getattr(module, f"SwinTransformerBlock{end}"),
            "downsample_layer": getattr(module, f"PatchMerging{end}"),
        }

    def at_size(self, stored: Stored, model: Any) -> Stored:  # noqa: ANN401
        """Change nothing: no position is absolute."""
        return stored

    def draw(self, model: nn.Module, fresh: Collection[Tensor]) -> None:
        """Draw a head as torchvision does."""
        head: Any = model.get_submodule("head")
        drawn = {id(tensor) for tensor in fresh}
        with torch.no_grad():
            if id(head.weight) in drawn:
                nn.init.trunc_normal_(head.weight, std=0.02)
            if id(head.bias) in drawn:
                nn.init.zeros_(head.bias)

    def image_size(self, model: Any) -> int:  # noqa: ANN401
        """Return the size where nothing else says one."""
        return _SIZE

    def num_classes(self, model: Any) -> int:  # noqa: ANN401
        """Return the number of logits."""
        classes: int = model.head.out_features
        return classes

    def arguments(self, model: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the arguments that make the model again."""
        patches, *others = model.features
        levels = others[::2]
        first, last = levels[0][0], levels[-1][-1]
        eps = model.norm.eps
        return {
            "version": 2 if isinstance(first, self.module().SwinTransformerBlockV2) else 1,
            "patch_size": list(patches[0].kernel_size),
            "embed_dim": patches[0].out_channels,
            "depths": [len(level) for level in levels],
            "num_heads": [level[0].attn.num_heads for level in levels],
            "window_size": list(first.attn.window_size),
            "mlp_ratio": first.mlp[0].out_features / patches[0].out_channels,
            "dropout": first.attn.dropout,
            "attention_dropout": first.attn.attention_dropout,
            "stochastic_depth_prob": last.stochastic_depth.p,
            "num_classes": model.head.out_features,
            **({} if eps == _EPS else {"layer_norm_eps": eps}),
        }


LIBRARY = TorchvisionSwinLibrary()
