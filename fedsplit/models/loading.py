"""Models by name: whole, split, without storage, and the images they take.

Built-in models have no pretrained weights, and a classifier for another number of labels has
none either: these are drawn from torch's global generator. Wrap the call in
`fedsplit.seeding.seeded_init` to have the same weights again.

Weights are float32 unless a dtype is given, whatever the checkpoint stores; every model comes in
eval mode, as from transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch import nn

from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models import checkpoint
from fedsplit.models.hub import find_model
from fedsplit.models.registry import family_of_config
from fedsplit.models.skeletons import PARTS, skeleton
from fedsplit.models.split import SplitModel, check_split_points, split_model, stage_names
from fedsplit.models.storage import move_kept_buffers


def load_split_model(
    model_name: str | Path,
    split_points: Sequence[int],
    *,
    cache_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    pretrained: bool = True,
    num_labels: int | None = None,
    parts: Sequence[str] = PARTS,
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

    Returns
    -------
    SplitModel
        With ``top(trunk(bottom(images)))`` equal to the whole model's logits [B, classes].

    Raises
    ------
    ModelError
        If the model cannot be had, its weights do not fit, or a split point is no boundary.

    Examples
    --------
    >>> import torch
    >>> from fedsplit import load_split_model
    >>> bottom, trunk, top = load_split_model("vit-nano", [1])
    >>> bottom(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 17, 64])
    """
    model_name = str(model_name)
    unknown = set(parts) - set(PARTS)
    if unknown or isinstance(parts, str):
        raise ModelError(f"parts is {parts!r}; give some of {PARTS}.")
    empty = skeleton(model_name, num_labels=num_labels, cache_dir=cache_dir)
    check_split_points(split_points, stage_names(empty))  # before any weight is read
    shape = split_model(empty, split_points)
    model = _load(
        model_name,
        pretrained=pretrained,
        num_labels=num_labels,
        cache_dir=cache_dir,
        device=device,
        dtype=dtype,
        wanted={name for part in parts for name in getattr(shape, part).state_dict()},
    )
    split = split_model(model, split_points)
    for name, part in zip(PARTS, split, strict=True):
        if name not in parts:
            part.to("meta")
    return split


def load_model(
    model_name: str | Path,
    *,
    pretrained: bool = True,
    num_labels: int | None = None,
    cache_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Load a whole model; the arguments are those of `load_split_model`.

    Returns
    -------
    nn.Module
        Of its library's own class, in eval mode.

    Raises
    ------
    ModelError
        If the model cannot be had or its weights do not fit.
    """
    return _load(
        str(model_name),
        pretrained=pretrained,
        num_labels=num_labels,
        cache_dir=cache_dir,
        device=device,
        dtype=dtype,
        wanted=None,
    )


def _load(
    model_name: str,
    *,
    pretrained: bool,
    num_labels: int | None,
    cache_dir: str | Path | None,
    device: str | torch.device,
    dtype: torch.dtype | None,
    wanted: Collection[str] | None,
) -> nn.Module:
    _check_place(model_name, device, dtype)
    source = find_model(model_name, cache_dir=cache_dir, weights=pretrained)
    if pretrained and source.has_weights:
        empty = copy.deepcopy(skeleton(model_name, num_labels=num_labels, cache_dir=cache_dir))
        model = checkpoint.load(
            source,
            empty,
            num_labels=num_labels,
            wanted=wanted,
            device=device,
            dtype=dtype,
            cache_dir=cache_dir,
        )
        move_kept_buffers(model, device)
        return model
    return checkpoint.build(source, num_labels=num_labels).to(device=device, dtype=dtype)


def _check_place(model_name: str, device: str | torch.device, dtype: torch.dtype | None) -> None:
    try:
        torch.empty(0, device=torch.device(device), dtype=dtype).requires_grad_()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(
            f"The model '{model_name}' cannot be put on device '{device}' as "
            f"{dtype or torch.float32}: {' '.join(str(error).split()).rstrip('.')}. Use a device "
            "this machine has, such as 'cpu', and a floating-point dtype, such as torch.bfloat16."
        ) from None


def input_spec(
    model_name: str | Path,
    cache_dir: str | Path | None = None,
    *,
    images: Callable[[], tuple[int, int, int]] | None = None,
) -> InputSpec:
    """Return the images a model takes, from its config and its preprocessor_config.json.

    Without the latter, images are resized to the model's size and normalised with mean 0.5 and
    standard deviation 0.5.

    Parameters
    ----------
    model_name, cache_dir : str | Path, str | Path | None
        As for `load_split_model`.
    images : Callable[[], tuple[int, int, int]], optional
        Gives channels, height and width of the images there are, for a model of your own that
        does not say what it takes.

    Raises
    ------
    ModelError
        If the configs cannot be had, or do not say it, or images are neither grey nor RGB.
    """
    model_name = str(model_name)
    source = find_model(model_name, cache_dir=cache_dir)
    family = family_of_config(source.config, num_labels=1, name=source.name)  # it is to classify
    library = family.load_library()
    whole = skeleton(model_name, num_labels=1, cache_dir=cache_dir)
    spec = library.input_spec(source, whole, source.read_json("preprocessor_config.json"))
    if spec is not None:
        return spec
    if images is None:
        raise ModelError(
            f"The model '{model_name}' does not say what images it takes. Give its bottom an "
            "attribute: input_spec = InputSpec(channels, height, width, mean, std)."
        )
    channels, height, width = images()
    return InputSpec(channels, height, width, (0.5,) * channels, (0.5,) * channels)
