"""Images of another size than a model was trained on."""

from __future__ import annotations

from typing import Any

from fedsplit.errors import ModelError
from fedsplit.models.family import Family
from fedsplit.models.stages import Root

CONFIG_KEY = "fedsplit_image_size"
"""Where a config of transformers, and so config.json, says for which size a model was trained."""


def interpolates(model: Root) -> bool:
    """Return whether a model of transformers is to interpolate its positions in every forward."""
    return bool(getattr(getattr(model, "config", None), CONFIG_KEY, 0))


def embed(embeddings: Any, images: Any, *, interpolate: bool) -> Any:  # noqa: ANN401
    """Call embeddings of transformers, which have an argument for that."""
    return embeddings(images, interpolate_pos_encoding=True) if interpolate else embeddings(images)


def patch_size(model: Root) -> int:
    """Return the size of a patch, in a config of transformers.

    Raises
    ------
    ModelError
        If it has absolute positions that are not a square: transformers interpolates only squares.
    """
    config = getattr(model.config, "vision_config", model.config)
    size = config.image_size
    absolute = getattr(config, "use_absolute_position_embeddings", True) and getattr(
        config, "use_absolute_embeddings", True
    )
    if absolute and not isinstance(size, int) and size[0] != size[1]:
        raise ModelError(
            f"model.image-size is not possible for a model of images of {size[0]}x{size[1]}, "
            "because transformers interpolates the positions of square images only. Leave it 0."
        )
    patch: int = config.patch_size
    return patch


def check_image_size(name: str, family: Family, model: Root, size: int) -> None:
    """Refuse a size of images that a model cannot take.

    Raises
    ------
    ModelError
        If the family takes no other size than its own, or patches of the model do not fill it.
    """
    if family.size_step is None:
        raise ModelError(
            f"model.image-size = {size} is not possible for '{name}': models of the family "
            f"'{family.name}' take images of their own size only. Leave it 0."
        )
    step = family.size_step(model)
    if size % step:
        below, above = size // step * step, (size // step + 1) * step
        fits = f"{below} or {above}" if below else f"{above}"
        raise ModelError(
            f"model.image-size = {size} is no multiple of {step}, the size of a patch of '{name}'. "
            f"Use {fits}."
        )
