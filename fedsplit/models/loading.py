"""Models by name: whole, split into parts, and the images that they take.

Built-in models have no pretrained weights, and a classifier for another number of labels has
none either: these are drawn from torch's global generator. Wrap the call in
`fedsplit.seeding.seeded_init` to draw the same weights again.

Weights are float32 unless a dtype is given, whatever the checkpoint stores. Every model comes in
eval mode, as from transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from fedsplit.input_spec import InputSpec
from fedsplit.models.resolved import resolve
from fedsplit.models.split import PARTS, SplitModel


def load_split_model(  # noqa: PLR0913 - all but the first two by keyword
    model_name: str | Path,
    split_points: Sequence[int],
    *,
    cache_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    pretrained: bool = True,
    num_labels: int | None = None,
    parts: Sequence[str] = PARTS,
    image_size: int = 0,
    trust: bool = False,
) -> SplitModel:
    """Load a model and split it into bottom, trunk and top.

    Parameters
    ----------
    model_name : str | Path
        A built-in name (``vit-nano``), a name of torchvision or timm (``torchvision:vit_b_16``,
        ``timm:vit_small_patch16_224``), a function that makes the model
        (``package.module:function``), a local directory, or a Hugging Face id.
    split_points : Sequence[int]
        ``[a]`` or ``[a, b]``, see `split_model`. ``[1]`` leaves the embeddings on the client.
    cache_dir : str | Path, optional
        Where hub files are kept.
    device : str | torch.device
        Where the parts go.
    dtype : torch.dtype, optional
        Of every floating-point weight; default float32.
    pretrained : bool
        Load weights where the model has any, else draw all at random.
    num_labels : int, optional
        Classes; default the checkpoint's. Another number gets a fresh classifier.
    parts : Sequence[str]
        Which parts to have; the others come without storage, on the meta device, and their
        weights are not read.
    image_size : int
        Height and width of the images that the model is to take, in pixels, with its positions
        interpolated as its library does it; 0 = its own size.
    trust : bool
        Whether the files of its directory may name code: a function in config.json, as in the
        ``model/`` of a run whose model your own function makes, is imported and called. Links in
        the directory may then lead out of it. Leave it false for what others have made.

    Returns
    -------
    SplitModel
        With ``top(trunk(bottom(images)))`` equal to the whole model's logits [B, classes].

    Raises
    ------
    ModelError
        If there is no such model, its weights do not fit, or a split point is no boundary.
    ConfigError
        If the name is a function's, and it cannot be imported.

    Examples
    --------
    >>> import torch
    >>> from fedsplit import load_split_model
    >>> bottom, trunk, top = load_split_model("vit-nano", [1])
    >>> bottom(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 17, 64])
    """
    return resolve(model_name, cache_dir=cache_dir, image_size=image_size, trust=trust).load_parts(
        split_points,
        device=device,
        dtype=dtype,
        pretrained=pretrained,
        num_labels=num_labels,
        parts=parts,
    )


def load_model(
    model_name: str | Path,
    *,
    pretrained: bool = True,
    num_labels: int | None = None,
    cache_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    image_size: int = 0,
    trust: bool = False,
) -> nn.Module:
    """Load a whole model; the arguments are those of `load_split_model`.

    Returns
    -------
    nn.Module
        Of its library's own class, in eval mode.

    Raises
    ------
    ModelError
        If there is no such model, or its weights do not fit.
    """
    return resolve(model_name, cache_dir=cache_dir, image_size=image_size, trust=trust).load(
        device=device, dtype=dtype, pretrained=pretrained, num_labels=num_labels
    )


def input_spec(
    model_name: str | Path,
    cache_dir: str | Path | None = None,
    *,
    images: Callable[[], tuple[int, int, int]] | None = None,
    image_size: int = 0,
    trust: bool = False,
) -> InputSpec:
    """Return the images that a model takes, from its config and its preprocessor_config.json.

    Without a preprocessor_config.json, images are resized to the model's size and normalised with
    mean 0.5 and standard deviation 0.5.

    Parameters
    ----------
    model_name, cache_dir : str | Path, str | Path | None
        As for `load_split_model`.
    images : Callable[[], tuple[int, int, int]], optional
        Returns channels, height and width of the images there are, for a model of your own that
        does not say what it takes.
    image_size, trust : int, bool
        As for `load_split_model`.

    Raises
    ------
    ModelError
        If the configs cannot be read, do not say it, or images are neither grey nor RGB.
    """
    return resolve(model_name, cache_dir=cache_dir, image_size=image_size, trust=trust).input_spec(
        images
    )
