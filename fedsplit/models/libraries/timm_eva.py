"""EVA models of timm, by name. They are saved as a name of timm and its arguments."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.models.hub import Source
from fedsplit.models.libraries.timm import TimmLibrary
from fedsplit.models.storage import allocate_kept_buffers

# Images of a run have one size, and positions drawn at random on two machines would not agree.
_FIXED = {
    "dynamic_img_size": False,
    "rope_shift_coords": None,
    "rope_jitter_coords": None,
    "rope_rescale_coords": None,
}


class TimmEvaLibrary(TimmLibrary):
    """See `Library`."""

    module_name = "timm.models.eva"
    class_name = "Eva"
    model_type = "timm-eva"

    def build(self, source: Source, model_class: type[Any], num_labels: int | None) -> Any:  # noqa: ANN401
        """Let timm build it, for images of one size, and note its arguments."""
        arguments = {**(source.config.get("model_args") or {}), **_FIXED}
        config = {**source.config, "model_args": arguments}
        fixed = Source(source.name, config, source.directory, image_size=source.image_size)
        model = super().build(fixed, model_class, num_labels)
        arguments["img_size"] = list(model.patch_embed.img_size)
        model.timm_arguments = arguments
        return model

    def build_empty(self, source: Source, model_class: type[Any], num_labels: int | None) -> Any:  # noqa: ANN401
        """Build on the meta device; then compute the buffers that no checkpoint holds."""
        model: nn.Module = super().build_empty(source, model_class, num_labels)
        allocate_kept_buffers(model)
        for module in model.modules():
            compute = getattr(module, "init_non_persistent_buffers", None)
            if compute is not None and next(module.buffers(recurse=False), None) is not None:
                compute()
        return model

    def draw(self, model: nn.Module, fresh: Collection[Tensor]) -> None:
        """Draw a head as timm does."""
        whole: Any = model
        drawn = {id(tensor) for tensor in fresh}
        with torch.no_grad():
            if id(whole.head.weight) in drawn:
                nn.init.trunc_normal_(whole.head.weight, std=0.02).mul_(whole.head_init_scale)
            if id(whole.head.bias) in drawn:
                nn.init.zeros_(whole.head.bias)

    def arguments(self, model: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the arguments with which this library built the model.

        Raises
        ------
        ModelError
            If it did not.
        """
        noted: dict[str, Any] | None = getattr(model, "timm_arguments", None)
        if noted is None:
            raise ModelError(
                f"This {type(model).__name__} of timm was made by hand, so the arguments of its "
                "config.json are not known. Load it by its name in timm, or save its state_dict."
            )
        return {**noted, "global_pool": model.global_pool}


LIBRARY = TimmEvaLibrary()
